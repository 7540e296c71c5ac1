/** What the sections of the settings share: an action whose outcome is told beside its button. */

export type Outcome = { text: string; isBad: boolean };

/** Runs `work`; what it answers, or why it failed, in words. */
export async function outcomeOf(work: () => Promise<string>): Promise<Outcome> {
  try {
    return { text: await work(), isBad: false };
  } catch (error) {
    return { text: error instanceof Error ? error.message : String(error), isBad: true };
  }
}

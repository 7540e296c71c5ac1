/** The steps of the slider that limits thinking, in tokens. The last step is no limit. */

const STEPS = [128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768];

/** Budgets below the model's context, then null for no limit. */
export function budgetSteps(maxContext: number | null): (number | null)[] {
  return [...STEPS.filter((step) => maxContext === null || step < maxContext), null];
}

/** The place of a budget on the slider: the nearest step that is not below it. */
export function stepOf(budget: number | undefined, steps: readonly (number | null)[]): number {
  const at = budget === undefined ? -1 : steps.findIndex((step) => step !== null && step >= budget);
  return at < 0 ? steps.length - 1 : at;
}

/** Files that are dragged over the page. */

export function hasFiles(event: DragEvent): boolean {
  return event.dataTransfer?.types.includes("Files") ?? false;
}

/** Left to itself, a browser opens a file that is dropped where nothing takes it, and leaves the app. Fields for files take theirs. */
export function keepPage(event: DragEvent): void {
  const isField = event.target instanceof HTMLInputElement && event.target.type === "file";
  if (hasFiles(event) && !isField) event.preventDefault();
}

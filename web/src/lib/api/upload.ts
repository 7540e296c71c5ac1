/** Sends a file with progress. fetch tells none for what is sent, so this is XMLHttpRequest. */

import { API, ApiError, errorOf } from "./request";
import type { FileInfo } from "./types";

/** `onProgress` is called with the share that was sent, 0 to 1. Aborting `signal` rejects with its reason. */
export function uploadFile(file: File, onProgress: (share: number) => void, signal: AbortSignal): Promise<FileInfo> {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    const data = new FormData();
    data.append("file", file, file.name);
    xhr.open("POST", `${API}/files`);
    xhr.setRequestHeader("X-Samovar-App", "1");
    xhr.upload.onprogress = (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    };
    xhr.onload = () => {
      if (xhr.status >= 200 && xhr.status < 300) resolve(JSON.parse(xhr.responseText) as FileInfo);
      else reject(errorOf(xhr.status, xhr.responseText));
    };
    xhr.onerror = () => reject(new ApiError(0, "offline", "The server cannot be reached."));
    signal.addEventListener("abort", () => {
      xhr.abort();
      reject(signal.reason as Error);
    });
    xhr.send(data);
  });
}

export { api } from "./client";
export { ApiError, onSignedOut } from "./request";
export { subscribe, type Subscription } from "./subscribe";
export { uploadFile } from "./upload";
export type * from "./types";

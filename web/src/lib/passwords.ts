/** The least length of a password, in characters, as the server asks for it. */
export const MIN_PASSWORD = 8;

/**
 * For work on the page without a model: `npm run mock`, then `npm run dev`. MOCK_PORT chooses the port, MOCK_MESSAGES=2000 begins
 * with a chat of that many messages, MOCK_LOGIN=1 asks for a login (any name and password).
 */

import { server, store } from "./server.mjs";

const port = Number(process.env.MOCK_PORT ?? 4123);
if (process.env.MOCK_MESSAGES) store.addLongChat(Number(process.env.MOCK_MESSAGES));
server.listen(port, "127.0.0.1", () => process.stdout.write(`mock server at http://127.0.0.1:${port}\n`));

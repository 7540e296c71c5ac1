import { fileURLToPath } from "node:url";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

// The server that `npm run dev` forwards the interface to: the mock server, or a real `samovar serve`.
const server = process.env["SAMOVAR_URL"] ?? "http://127.0.0.1:4123";

export default defineConfig({
  plugins: [svelte()],
  resolve: {
    alias: { $lib: fileURLToPath(new URL("src/lib", import.meta.url)) },
    ...(process.env["VITEST"] ? { conditions: ["browser"] } : {}),
  },
  server: { proxy: { "/app/api": { target: server } } },
  build: {
    outDir: "../src/samovar/app/static",
    emptyOutDir: true,
    assetsDir: "assets",
    // Browsers of 2024: light-dark() and nesting in CSS stay as they are written.
    target: ["chrome123", "firefox128", "safari17.5"],
    chunkSizeWarningLimit: 700,
  },
  test: { environment: "jsdom", include: ["src/**/*.test.ts"] },
});

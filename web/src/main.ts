import "./theme.css";
import { mount } from "svelte";
import App from "./App.svelte";
import { preferences } from "$lib/state/preferences.svelte";
import { session } from "$lib/state/session.svelte";

const target = document.getElementById("app");
if (target === null) throw new Error("index.html has no element #app");

await Promise.all([preferences.apply(), session.load()]);
mount(App, { target });

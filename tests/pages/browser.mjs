// Opens pages in Chromium. DISSENT_PAGES_TOOLS names the folder with node_modules, and DISSENT_CHROMIUM the
// browser.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(join(resolve(process.env.DISSENT_PAGES_TOOLS), "package.json"));

/** The source of axe-core. */
export const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

/** The windows in which pages are looked at, in CSS pixels. */
export const SCENES = [
  { name: "light", width: 1280, height: 800, scheme: "light" },
  { name: "dark", width: 1280, height: 800, scheme: "dark" },
  { name: "tablet", width: 768, height: 1024, scheme: "light" },
  { name: "phone", width: 360, height: 740, scheme: "light" },
  { name: "dark phone", width: 360, height: 740, scheme: "dark" },
];

/** Starts the browser, runs `act` with it, and ends it. */
export async function withBrowser(act) {
  const browser = await require("puppeteer-core").launch({
    executablePath: process.env.DISSENT_CHROMIUM ?? "/usr/bin/chromium",
    // A container has no sandbox of its own, and the pages are this program's. Text is drawn alike everywhere.
    args: ["--no-sandbox", "--hide-scrollbars", "--font-render-hinting=none", "--force-color-profile=srgb"],
  });
  try {
    return await act(browser);
  } finally {
    await browser.close();
  }
}

/** Opens a file in the window of a scene. `errors` collects what the page logs as an error. */
export async function open(browser, file, scene, errors = []) {
  const page = await browser.newPage();
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  const { width, height, scale = 1 } = scene;
  await page.setViewport({ width, height, deviceScaleFactor: scale });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scene.scheme }]);
  await page.goto(pathToFileURL(resolve(file)).href);
  return page;
}

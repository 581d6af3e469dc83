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

/** Elements that stick out of the window or of their parent. Runs in the page. */
export function overflowing() {
  const name = (element) =>
    `<${element.tagName.toLowerCase()}${element.className && !element.ownerSVGElement ? ` class="${element.className}"` : ""}> ` +
    `“${(element.textContent ?? "").trim().replace(/\s+/g, " ").slice(0, 40)}”`;
  const scrolls = (element) => /auto|scroll|hidden|clip/.test(getComputedStyle(element).overflowX);
  const width = document.documentElement.clientWidth;
  const found = [];
  if (document.documentElement.scrollWidth > width) {
    found.push(`the page is ${document.documentElement.scrollWidth} px wide in a window of ${width} px`);
  }
  for (const element of document.querySelectorAll("body *")) {
    if (element.closest("svg, noscript, script, [hidden], [aria-hidden=true]") || !element.getClientRects().length) continue;
    let parent = element.parentElement;
    while (parent && !scrolls(parent)) parent = parent.parentElement;
    const { left, right } = element.getBoundingClientRect();
    if (!parent && (right > width + 0.5 || left < -0.5)) found.push(`${name(element)} leaves the window`);
    const isBlock = !/inline|table|contents/.test(getComputedStyle(element).display);
    if (isBlock && element.scrollWidth > element.clientWidth + 1 && !scrolls(element)) {
      found.push(`${name(element)} is narrower than its content`);
    }
  }
  return found;
}

/** Findings of axe-core. Runs in the page. */
export async function inaccessible() {
  const { violations } = await globalThis.axe.run(document);
  return violations.flatMap(({ id, help, nodes }) =>
    nodes.map(({ html, any, all }) => {
      const why = [...any, ...all].map((check) => check.message).join("; ");
      return `axe ${id}: ${help}: ${html.replace(/\s+/g, " ").slice(0, 160)} (${why.slice(0, 200)})`;
    }));
}

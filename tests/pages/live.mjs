// An admin works with a server in Chromium: node live.mjs URL INVITATION FOLDER PICTURES
//
// FOLDER has experiment.toml and the files that it names. The steps: set a password, create an experiment, watch it
// move, pause and resume it, open a conflict from the scatter, go back in the history and fork there. Then each page
// is checked in every window with axe-core. A finding is a line on standard output; the exit status is 1 if there is
// one. Pictures of the pages go to the folder PICTURES.

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { axe, inaccessible, overflowing, SCENES, withBrowser } from "./browser.mjs";

const [url, invitation, folder, pictures] = process.argv.slice(2);
const found = [];

async function shown(page, selector) {
  return page.$eval(selector, (element) => element.textContent.trim());
}

function expect(holds, what) {
  if (!holds) throw new Error(what);
}

/** Opens a tab whose errors are findings. */
async function tab(browser) {
  const page = await browser.newPage();
  page.setDefaultTimeout(60_000);
  page.on("pageerror", (error) => found.push(`error: ${error}`));
  page.on("console", (message) => message.type() === "error" && found.push(`console: ${message.text()}`));
  page.on("dialog", (dialog) => dialog.accept());
  return page;
}

async function act(browser) {
  const page = await tab(browser);
  await page.goto(`${url}/experiments/lab`);
  expect(page.url() === `${url}/sign-in`, `a page without a session leads to ${page.url()}`);
  await page.goto(`${url}/invitation#${invitation}`);
  await page.type('[name="name"]', "Ada");
  await page.type('[name="password"]', "correct horse");
  await Promise.all([page.waitForNavigation(), page.click("#invitation button")]);
  expect((await shown(page, "h1")) === "Experiments", "the invitation leads to the experiments");

  // Create, watch, pause, resume.
  const files = readdirSync(folder).filter((name) => name.endsWith(".jsonl")).map((name) => join(folder, name));
  await (await page.$('[name="configuration"]')).uploadFile(join(folder, "experiment.toml"));
  await (await page.$('[name="files"]')).uploadFile(...files);
  await Promise.all([page.waitForNavigation(), page.click("#create button")]);
  expect(page.url() === `${url}/experiments/lab`, `creation leads to ${page.url()}`);
  await page.waitForFunction(() => Number(document.querySelector('[data-figure="events"]').textContent) > 10);
  await page.waitForSelector("#events li");
  await page.click('[data-order="pause"]');
  await page.waitForFunction(() => document.querySelector("#state").textContent === "paused");
  await page.click('[data-order="resume"]');
  await page.waitForFunction(() => document.querySelector("#state").textContent !== "paused");

  // A conflict from the scatter.
  await page.goto(`${url}/experiments/lab/conflicts`);
  await page.waitForSelector("#scatter .point");
  const rows = (await page.$$("#conflicts tbody tr")).length;
  expect(rows > 0, "the table of conflicts is empty");
  await page.$eval("#scatter .point:last-of-type", (point) => point.dispatchEvent(new MouseEvent("click")));
  await page.waitForSelector("#texts[open]");
  expect((await shown(page, "#texts-prompt")).startsWith("what is"), "the dialog has the prompt");
  await page.keyboard.press("Escape");
  await page.waitForSelector("#texts:not([open])");
  await page.$eval("#scatter .point", (point) => point.focus());
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#texts[open]");
  await page.keyboard.press("Escape");
  await page.click('[data-sort="z_reward"]');
  await page.waitForSelector('th[aria-sort="descending"] [data-sort="z_reward"]');
  await page.type('[name="text.contains"]', "no completion has this text");
  await page.waitForFunction(() => document.querySelectorAll("#conflicts tbody tr").length === 0);

  // Back in the history, and a fork there.
  await page.goto(`${url}/experiments/lab/history`);
  await page.waitForSelector("#beside tbody tr");
  await page.$eval("#version", (slider) => {
    slider.value = "16";
    slider.dispatchEvent(new Event("input"));
  });
  await page.waitForFunction(() => document.querySelector("#beside tbody tr:nth-child(6) td").textContent === "16");
  await page.type('#fork [name="name"]', "other");
  await page.type('#fork [name="set"]', "conflict.budget=3");
  await Promise.all([page.waitForNavigation(), page.click("#fork button")]);
  expect(page.url() === `${url}/experiments/other`, `the fork leads to ${page.url()}`);

  // People and tokens: a secret is shown once, and texts are texts.
  await page.goto(`${url}/people`);
  await page.type('#add [name="name"]', "<img src=x onerror=alert(1)>");
  await page.click("#add button");
  await page.waitForFunction(() => document.querySelector("#people").textContent.includes("<img src=x"));
  await page.click('#token [value="read"]');
  await page.type('#token [name="name"]', "tool");
  await page.click("#token button");
  await page.waitForSelector("#secret[open]");
  expect((await shown(page, "#secret-text")).startsWith("dissent_"), "the token is shown once");
  await page.close();
}

/** Checks each page in every window, and takes pictures. */
async function check(browser) {
  const pages = {
    experiments: "/", experiment: "/experiments/lab", conflicts: "/experiments/lab/conflicts",
    history: "/experiments/lab/history", people: "/people", server: "/server",
    "sign-in": "/sign-in", invitation: "/invitation", link: "/link",
  };
  const doors = await browser.createBrowserContext();
  for (const [name, path] of Object.entries(pages)) {
    const isDoor = ["sign-in", "invitation", "link"].includes(name);
    for (const scene of SCENES) {
      const page = await tab(isDoor ? doors : browser);
      await page.setViewport({ width: scene.width, height: scene.height });
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scene.scheme }]);
      await page.goto(url + path);
      // Figures that scripts fill.
      await new Promise((resolve) => setTimeout(resolve, 700));
      await page.evaluate(axe);
      for (const look of [overflowing, inaccessible]) {
        for (const finding of await page.evaluate(look)) found.push(`${name}, ${scene.name}: ${finding}`);
      }
      if (["light", "dark", "phone"].includes(scene.name)) {
        await page.screenshot({ path: join(pictures, `page-${name}-${scene.name}.png`) });
      }
      await page.close();
    }
  }
  await doors.close();
}

await withBrowser(async (browser) => {
  await act(browser);
  await check(browser);
});
for (const finding of new Set(found)) console.log(finding);
process.exitCode = found.length ? 1 : 0;

// Checks HTML pages in Chromium: node check.mjs FILE…
//
// Each page is opened in light and dark, on a desktop, a tablet and a phone. A finding is a line on standard
// output; the exit status is 1 if there is one. The checks:
// - axe-core has no finding, also with every `details` open;
// - the page does not scroll sideways, and no element leaves its parent;
// - texts of charts lie inside the chart, do not overlap, and are as legible as other texts;
// - the first screen of a report answers its two questions.

import { basename } from "node:path";
import { axe, inaccessible, open, overflowing, SCENES, withBrowser } from "./browser.mjs";

/** Texts of charts that are cut off, overlap or are hard to read. Runs in the page. */
function illegible() {
  const colour = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = (text) => {
    const [r, g, b] = colour(text).map((value) => value / 255).map((value) =>
      value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const paper = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const { backgroundColor } = getComputedStyle(at);
      if (colour(backgroundColor)[3] !== 0) return backgroundColor;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const chart of document.querySelectorAll("svg[role=img]")) {
    const title = chart.querySelector("title")?.textContent;
    const frame = chart.getBoundingClientRect();
    const texts = [...chart.querySelectorAll("text")].map((text) => [text, text.getBoundingClientRect()]);
    texts.forEach(([text, box], at) => {
      const shown = `the text “${text.textContent.trim()}” of the chart “${title}”`;
      const isOutside = box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
      if (isOutside) found.push(`${shown} leaves the chart`);
      const size = parseFloat(getComputedStyle(text).fontSize) * (frame.width / chart.viewBox.baseVal.width);
      if (size < 10.5) found.push(`${shown} is ${size.toFixed(1)} px high`);
      if (contrast(getComputedStyle(text).fill, paper(chart)) < 4.5) found.push(`${shown} has too little contrast`);
      for (const [other, its] of texts.slice(at + 1)) {
        const across = Math.min(box.right, its.right) - Math.max(box.left, its.left);
        const down = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
        // Boxes of texts include the space between lines.
        if (across > 1 && down > 0.3 * Math.min(box.height, its.height)) {
          found.push(`${shown} overlaps “${other.textContent.trim()}”`);
        }
      }
    });
  }
  for (const mark of document.querySelectorAll(".legend svg > *")) {
    const { fill, stroke } = getComputedStyle(mark);
    const drawn = fill === "none" ? stroke : fill;
    if (contrast(drawn, paper(mark.closest("figure"))) < 3) found.push(`the mark of ${mark.closest("li").textContent} is pale`);
  }
  return found;
}

/** Questions of a report that the first screen does not answer. Runs in the page. */
function unanswered() {
  const answers = [...document.querySelectorAll(".answers > div")];
  // A phone shows both questions, with the beginnings of their answers.
  const isPhone = innerWidth < 600;
  return answers.flatMap((answer) => {
    const [question, text] = answer.children;
    const { top, bottom } = text.getBoundingClientRect();
    const end = isPhone ? top + 1.5 * parseFloat(getComputedStyle(text).lineHeight) : bottom;
    return end <= innerHeight ? [] : [`the first screen does not answer “${question.textContent}”`];
  });
}

/** The states of a page that are looked at, each with a name and an action that leads to it. */
async function states(page) {
  const all = [["", async () => {}]];
  if (await page.$("details")) {
    all.push(["all open", () => page.$$eval("details", (all) => all.forEach((one) => { one.open = true; }))]);
  }
  if (await page.$("#start:not([hidden])")) {
    const begin = async () => {
      await page.type("#name", "ann");
      await page.click("#start button");
    };
    const judge = async () => {
      await page.click("#looks-for-unsafe");
      for (const _ of await page.$$("#overview button")) await page.keyboard.press("1");
    };
    all.push(["judging", begin], ["all judged", judge]);
  }
  return all;
}

async function findings(browser, file, scene) {
  const errors = [];
  const page = await open(browser, file, scene, errors);
  await page.evaluate(axe);
  const found = (await page.evaluate(unanswered)).map((finding) => ["", finding]);
  for (const [state, reach] of await states(page)) {
    await reach();
    for (const check of [overflowing, illegible, inaccessible]) {
      found.push(...(await page.evaluate(check)).map((finding) => [state, finding]));
    }
  }
  found.push(...errors.map((error) => ["", `error: ${error}`]));
  await page.close();
  return found;
}

const files = process.argv.slice(2);
if (files.length === 0) {
  console.log("usage: node check.mjs FILE…");
  process.exit(2);
}
const count = await withBrowser(async (browser) => {
  let count = 0;
  for (const file of files) {
    for (const scene of SCENES) {
      const found = await findings(browser, file, scene);
      for (const [state, finding] of found) {
        console.log(`${basename(file)}, ${[scene.name, state].filter(Boolean).join(", ")}: ${finding}`);
      }
      count += found.length;
    }
  }
  return count;
});
console.log(`${files.length} pages in ${SCENES.length} windows: ${count} findings`);
process.exit(count === 0 ? 0 : 1);

// Takes the pictures of the documentation: node pictures.mjs REPORT.html
//
// docs/report.png is the beginning of the report on a desktop, docs/report-dark.png its charts in dark
// colours, docs/report-phone.png its beginning on a phone.

import { join } from "node:path";
import { open, withBrowser } from "./browser.mjs";

const DOCS = join(import.meta.dirname, "../../docs");

/** Each picture: its window in CSS pixels, its pixels per CSS pixel, and the heading at its top. */
const PICTURES = [
  { file: "report.png", width: 1120, height: 968, scale: 1, scheme: "light", from: null },
  { file: "report-dark.png", width: 1120, height: 1000, scale: 1, scheme: "dark", from: "The distributions" },
  { file: "report-phone.png", width: 360, height: 740, scale: 1.5, scheme: "light", from: null },
];

const [report] = process.argv.slice(2);
if (!report) {
  console.log("usage: node pictures.mjs REPORT.html");
  process.exit(2);
}
await withBrowser(async (browser) => {
  for (const picture of PICTURES) {
    const page = await open(browser, report, picture);
    await page.evaluate((from) => {
      const heading = [...document.querySelectorAll("h2")].find((other) => other.textContent === from);
      if (heading) scrollTo(0, heading.getBoundingClientRect().top + scrollY - 28);
    }, picture.from);
    await page.screenshot({ path: join(DOCS, picture.file) });
    console.log(`docs/${picture.file}`);
    await page.close();
  }
});

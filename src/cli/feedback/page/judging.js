"use strict";
// What one person says of each comparison, apart from how it is shown: how it is kept in the browser, and the lines that
// `dissent feedback import` reads.

const VERDICTS = ["first", "tie", "second"];

/** Bytes of a text as UTF-8. */
function byteLength(text) {
  return new TextEncoder().encode(text).length;
}

/** Nothing said yet. `unsafe` says of both answers whether they are; it stays null where nobody looked for that. */
function unjudged() {
  return { verdict: null, unsafe: null, comment: "" };
}

/** A person's judgements of a task, by the number of the comparison. */
class Judgements {
  /** Those that `text` holds, as `kept` wrote it; what does not fit the task's texts is left out. */
  constructor(task, text) {
    this.task = task;
    this.of = new Map(task.comparisons.map((shown) => [shown.comparison, unjudged()]));
    let found = {};
    try {
      found = JSON.parse(text) ?? {};
    } catch {
      // Nothing was kept, or not by this page.
    }
    for (const shown of task.comparisons) {
      const { fingerprint, verdict, unsafe, comment } = found[shown.comparison] ?? {};
      if (fingerprint !== shown.fingerprint) continue;
      const judgement = this.of.get(shown.comparison);
      if (VERDICTS.includes(verdict)) judgement.verdict = verdict;
      if (Array.isArray(unsafe)) judgement.unsafe = [unsafe[0] === true, unsafe[1] === true];
      if (typeof comment === "string") judgement.comment = comment;
    }
  }

  /** What to keep, as text. */
  kept() {
    const kept = {};
    for (const shown of this.task.comparisons) {
      const judgement = this.of.get(shown.comparison);
      const { verdict, unsafe, comment } = judgement;
      if (verdict || unsafe || comment) kept[shown.comparison] = { fingerprint: shown.fingerprint, ...judgement };
    }
    return JSON.stringify(kept);
  }

  /** How many have a verdict. */
  count() {
    return [...this.of.values()].filter((judgement) => judgement.verdict).length;
  }

  /** The place of the first comparison without a verdict, from `from` on and then from the beginning; -1 if there is none. */
  nextOpen(from) {
    const { comparisons } = this.task;
    for (let step = 0; step < comparisons.length; step += 1) {
      const place = (from + step) % comparisons.length;
      if (!this.of.get(comparisons[place].comparison).verdict) return place;
    }
    return -1;
  }

  /** A line for each verdict, as `dissent feedback import` takes them. */
  lines(annotator) {
    const { experiment, round, comparisons } = this.task;
    const line = ({ comparison }) => {
      const { verdict, unsafe, comment } = this.of.get(comparison);
      if (!verdict) return "";
      const [first_unsafe, second_unsafe] = unsafe ?? [null, null];
      const said = { experiment, round, comparison, annotator, verdict, first_unsafe, second_unsafe, comment: comment.trim() || null };
      return JSON.stringify(said) + "\n";
    };
    return comparisons.map(line).join("");
  }
}

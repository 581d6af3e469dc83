"use strict";
// The judgements of one annotator, without the page that shows them: their form in the browser's storage, and the lines
// that `dissent feedback import` reads.

const VERDICTS = ["first", "tie", "second"];

/** Returns the length of a text in bytes of UTF-8. */
function byteLength(text) {
  return new TextEncoder().encode(text).length;
}

/** Returns an empty judgement. `unsafe` holds a flag for each answer, or null if the annotator does not mark answers. */
function unjudged() {
  return { verdict: null, unsafe: null, comment: "" };
}

/** An annotator's judgements of a task, by the number of the comparison. */
class Judgements {
  /** Restores the judgements that `serialize` wrote to `text`, except those of other texts. */
  constructor(task, text) {
    this.task = task;
    this.of = new Map(task.comparisons.map((shown) => [shown.comparison, unjudged()]));
    let found = {};
    try {
      found = JSON.parse(text) ?? {};
    } catch {
      // The storage is empty, or another page wrote to it.
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

  /** Returns the judgements as text for the browser's storage. */
  serialize() {
    const stored = {};
    for (const shown of this.task.comparisons) {
      const judgement = this.of.get(shown.comparison);
      const { verdict, unsafe, comment } = judgement;
      if (verdict || unsafe || comment) stored[shown.comparison] = { fingerprint: shown.fingerprint, ...judgement };
    }
    return JSON.stringify(stored);
  }

  /** Returns the number of verdicts. */
  count() {
    return [...this.of.values()].filter((judgement) => judgement.verdict).length;
  }

  /** Returns the index of the next comparison without a verdict, from index `from` on and then from the start; else -1. */
  nextOpen(from) {
    const { comparisons } = this.task;
    for (let step = 0; step < comparisons.length; step += 1) {
      const index = (from + step) % comparisons.length;
      if (!this.of.get(comparisons[index].comparison).verdict) return index;
    }
    return -1;
  }

  /** Returns a line for each verdict, as `dissent feedback import` reads it. */
  lines(annotator) {
    const { experiment, round, comparisons } = this.task;
    const line = ({ comparison }) => {
      const { verdict, unsafe, comment } = this.of.get(comparison);
      if (!verdict) return "";
      const [first_unsafe, second_unsafe] = unsafe ?? [null, null];
      const record = { experiment, round, comparison, annotator, verdict, first_unsafe, second_unsafe, comment: comment.trim() || null };
      return JSON.stringify(record) + "\n";
    };
    return comparisons.map(line).join("");
  }
}

"use strict";
// The page shows one comparison at a time. Judgements stay in the browser's storage until they are saved as a file.

const task = JSON.parse(document.getElementById("task").textContent);
const element = (id) => document.getElementById(id);
const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** The browser's storage, which a setting may forbid. */
const storage = {
  isAvailable: true,
  read(key) {
    try {
      return localStorage.getItem(key);
    } catch {
      this.isAvailable = false;
      return null;
    }
  },
  write(key, text) {
    try {
      localStorage.setItem(key, text);
    } catch {
      this.isAvailable = false;
    }
  },
};

const LAST_NAME = "dissent: name";
const LOOKS_FOR_UNSAFE = "dissent: looks for unsafe answers";

let annotator = null;
let judgements = null;
/** Index of the comparison that is shown. */
let index = 0;
/** Lines of the last saved file. */
let savedLines = "";

const current = () => task.comparisons[index];
const judgement = () => judgements.of.get(current().comparison);
const looksForUnsafe = () => element("looks-for-unsafe").checked;
const lines = () => judgements.lines(annotator);

function begin(name) {
  annotator = name;
  storage.write(LAST_NAME, name);
  judgements = new Judgements(task, storage.read(key()));
  index = Math.max(judgements.nextOpen(0), 0);
  element("start").hidden = true;
  element("judging").hidden = false;
  element("annotator").textContent = name;
  element("stored").hidden = !storage.isAvailable;
  element("not-stored").hidden = storage.isAvailable;
  makeOverview();
  show();
}

const key = () => `dissent: ${task.experiment}, round ${task.round}, ${annotator}`;

function makeOverview() {
  const squares = task.comparisons.map((_, at) => {
    const square = document.createElement("button");
    square.type = "button";
    square.setAttribute("aria-label", `Comparison ${at + 1}`);
    square.addEventListener("click", () => go(at));
    return square;
  });
  element("overview").replaceChildren(...squares);
}

function go(to) {
  index = Math.min(Math.max(to, 0), task.comparisons.length - 1);
  show();
  window.scrollTo({ top: 0 });
}

/** Shows the current comparison and its judgement. */
function show() {
  const { prompt, first, second } = current();
  element("prompt").textContent = prompt;
  for (const [id, text] of [["first", first], ["second", second]]) {
    element(id).textContent = text || "(an empty answer)";
    element(id).classList.toggle("quiet", !text);
  }
  element("comment").value = judgement().comment;
  element("position").textContent = `Comparison ${index + 1} of ${task.comparisons.length}`;
  element("previous").disabled = index === 0;
  element("next").disabled = index === task.comparisons.length - 1;
  showJudgement();
}

/** Shows the judgement of the current comparison, and the progress. */
function showJudgement() {
  const { verdict, unsafe } = judgement();
  for (const word of VERDICTS) element(`verdict-${word}`).setAttribute("aria-pressed", String(word === verdict));
  for (const [at, side] of ["first", "second"].entries()) {
    element(`card-${side}`).classList.toggle("chosen", verdict === side);
    element(`unsafe-${side}`).checked = unsafe?.[at] ?? false;
    element(`marks-${side}`).hidden = !looksForUnsafe();
  }
  element("unsafe-keys").hidden = !looksForUnsafe();
  const [count, all] = [judgements.count(), task.comparisons.length];
  element("progress").max = all;
  element("progress").value = count;
  element("count").textContent = `${count} of ${all} judged`;
  [...element("overview").children].forEach((square, at) => {
    square.className = judgements.of.get(task.comparisons[at].comparison).verdict ? "judged" : "";
    if (at === index) square.setAttribute("aria-current", "true");
    else square.removeAttribute("aria-current");
  });
  const isSaved = count > 0 && lines() === savedLines;
  element("save").disabled = count === 0;
  element("save").textContent = isSaved ? `Saved ${counted(count, "judgement")}` : `Save ${counted(count, "judgement")}`;
  element("save").classList.toggle("due", count === all && !isSaved);
  element("done").hidden = count < all;
  element("to-save").hidden = isSaved;
  element("to-send").hidden = !isSaved;
}

function store() {
  storage.write(key(), judgements.serialize());
  showJudgement();
}

function judge(verdict) {
  const isNew = !judgement().verdict;
  judgement().verdict = verdict;
  if (looksForUnsafe()) judgement().unsafe ??= [false, false];
  store();
  const open = judgements.nextOpen(index);
  // After a changed verdict the comparison stays, so that the change is visible.
  if (isNew && open >= 0) go(open);
  else if (isNew) element("save").focus();
}

function mark(side) {
  const unsafe = (judgement().unsafe ??= [false, false]);
  unsafe[side] = !unsafe[side];
  store();
}

function save() {
  savedLines = lines();
  const link = document.createElement("a");
  const name = annotator.replace(/[^\p{L}\p{N}._-]+/gu, "-");
  link.download = `${task.experiment}-round-${task.round}-${name}.jsonl`;
  element("file").textContent = link.download;
  link.href = URL.createObjectURL(new Blob([savedLines], { type: "application/jsonl" }));
  link.click();
  URL.revokeObjectURL(link.href);
  showJudgement();
}

const KEYS = {
  1: () => judge("first"),
  0: () => judge("tie"),
  2: () => judge("second"),
  ArrowLeft: () => go(index - 1),
  ArrowRight: () => go(index + 1),
  q: () => looksForUnsafe() && mark(0),
  w: () => looksForUnsafe() && mark(1),
  c: () => element("comment").focus(),
};

document.addEventListener("keydown", (event) => {
  if (element("judging").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === element("comment")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

for (const verdict of VERDICTS) element(`verdict-${verdict}`).addEventListener("click", () => judge(verdict));
for (const [at, side] of ["first", "second"].entries()) element(`unsafe-${side}`).addEventListener("change", () => mark(at));
element("comment").addEventListener("input", ({ target }) => {
  const isTooLong = byteLength(target.value) > task.comment_bytes_max;
  target.setCustomValidity(isTooLong ? "This comment is too long." : "");
  target.reportValidity();
  if (isTooLong) return;
  judgement().comment = target.value;
  store();
});
element("looks-for-unsafe").addEventListener("change", ({ target }) => {
  storage.write(LOOKS_FOR_UNSAFE, String(target.checked));
  showJudgement();
});
element("previous").addEventListener("click", () => go(index - 1));
element("next").addEventListener("click", () => go(index + 1));
element("save").addEventListener("click", save);
element("start").addEventListener("submit", (event) => {
  event.preventDefault();
  begin(element("name").value.trim());
});
element("name").addEventListener("input", ({ target }) => {
  const bytes = byteLength(target.value.trim());
  const isName = bytes > 0 && bytes <= task.annotator_bytes_max && !/\p{Cc}/u.test(target.value);
  target.setCustomValidity(isName ? "" : `Enter a name of 1 to ${task.annotator_bytes_max} bytes, without control characters.`);
});
window.addEventListener("storage", (event) => {
  // Another window with this page stored judgements, which this window must not overwrite.
  if (!judgements || event.key !== key()) return;
  judgements = new Judgements(task, event.newValue);
  show();
});
window.addEventListener("beforeunload", (event) => {
  // Stored judgements reappear with the page; others would be lost.
  if (judgements && !storage.isAvailable && lines() !== savedLines) event.preventDefault();
});

element("looks-for-unsafe").checked = storage.read(LOOKS_FOR_UNSAFE) === "true";
if (task.comparisons.length === 0) element("nothing").hidden = false;
else if (task.annotator) begin(task.annotator);
else {
  element("start").hidden = false;
  element("name").value = storage.read(LAST_NAME) ?? "";
  element("name").focus();
}

// Keyboard shortcuts. Text fields keep their letters, a focused button keeps Enter and Space.

const find = (name) => document.getElementById(name);

const STORED = "tag2mask-review-single-keys";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export function bindKeys(review, moreOpacity) {
  const { drawing, layers, view, panel } = review;
  const letters = {
    a: () => review.accept(), r: () => review.reject(), u: () => review.undecide(), n: () => review.nextUndecided(),
    j: () => review.go(1), k: () => review.go(-1), s: () => review.save(), c: () => review.takeOver(),
    b: () => drawing.choose("brush"), e: () => drawing.choose("eraser"), f: () => drawing.choose("fill"),
    d: () => drawing.choose("hand"), q: () => drawing.choose("edge"), l: () => drawing.choose("lasso"),
    w: () => drawing.choose("wand"), o: () => document.querySelector("[data-tool=object]")?.click(),
    x: () => review.correct.clean(), p: () => review.correct.focus(),
    "[": () => drawing.resize(drawing.step - 1), "]": () => drawing.resize(drawing.step + 1),
    ",": () => moreOpacity(-10), ".": () => moreOpacity(10),
    "+": () => view.zoom(1.4), "=": () => view.zoom(1.4), "-": () => view.zoom(1 / 1.4), z: () => view.fit(),
    v: () => layers.step(1), V: () => layers.step(-1), i: () => panel.choose(255), 0: () => panel.choose(0),
    m: () => layers.show(layers.current === "edit" ? "image" : "edit"),
    g: () => layers.setHeat(!layers.asHeat),
    t: () => panel.focusTags(), "/": () => find("find").focus(), "?": () => find("help").showModal(),
  };
  for (let number = 1; number <= 9; number++) letters[number] = () => panel.number(number);

  keepSwitch(find("single"));
  addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (find("help").open || event.isComposing) return;
    const typing = target.matches?.("input:not([type=range]), select, textarea");
    if (typing) {
      if (key === "Escape") target.blur();
      return;
    }
    if (event.ctrlKey || event.metaKey) {
      if (event.altKey) return;
      const stroke = { z: event.shiftKey, y: true }[key.toLowerCase()];
      if (key.toLowerCase() === "s") review.save();
      else if (stroke === undefined) return;
      else review.undoStroke(stroke);
      event.preventDefault();
      return;
    }
    if (key in ARROWS) {
      if (event.shiftKey) drawing.nudge(...ARROWS[key], event.altKey);
      else if (event.altKey || target.matches?.("input") || ARROWS[key][1]) return;
      else review.go(ARROWS[key][0]);
      event.preventDefault();
      return;
    }
    if (event.altKey || (key.length === 1 && key !== " " && !find("single").checked)) return;
    const pressed = target.closest?.("button, a, summary, input");
    if (event.repeat && pressed?.closest(".decide")) event.preventDefault(); // one decision per press
    if (key === " " && !pressed) {
      drawing.hold(true);
      event.preventDefault();
    } else if (key === "Enter" && !pressed) {
      if (!event.repeat) drawing.press(event.shiftKey);
      event.preventDefault();
    } else if (key === "Escape") {
      drawing.finish();
      drawing.lasso.drop();
      drawing.objects.next();
      view.canvas.focus({ preventScroll: true });
    } else if (key === "h" || key === "H") {
      view.hide(true);
    } else {
      const action = letters[key] ?? letters[key.toLowerCase()];
      if (!action) return;
      if (event.repeat && "aruc".includes(key.toLowerCase())) return; // one decision per press
      event.preventDefault();
      action();
    }
  });
  addEventListener("keyup", ({ key }) => {
    if (key === " ") drawing.hold(false);
    if (key === "h" || key === "H") view.hide(false);
  });
  addEventListener("blur", () => {
    drawing.hold(false);
    view.hide(false);
  });
}

/** Single keys can be switched off, for speech input or accidental presses; the browser stores the choice. */
function keepSwitch(single) {
  try {
    single.checked = localStorage.getItem(STORED) !== "off";
  } catch {
    // the browser has no storage
  }
  single.addEventListener("change", () => {
    try {
      localStorage.setItem(STORED, single.checked ? "on" : "off");
    } catch {
      // as above
    }
  });
}

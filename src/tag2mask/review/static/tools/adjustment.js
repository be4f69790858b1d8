// A change of the mask that a slider repeats.

/** Each repetition replaces the result of the last one, so that all of them are one undo step. */
export class Adjustment {
  /** Apply `change(mask)` to the mask; `key` names what is adjusted. Returns whether the mask changed. */
  apply(key, mask, change) {
    const again = this.step && this.key === key && mask.done.at(-1) === this.step;
    if (again) mask.undo();
    mask.begin();
    change(mask);
    this.step = mask.end() ? mask.done.at(-1) : null;
    this.key = key;
    return Boolean(again || this.step);
  }
}

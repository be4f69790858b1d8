// A change of the mask that a slider repeats.

/** Each repetition replaces the result of the last one, so that all of them are one undo step. */
export class Adjustment {
  /** Apply `change()` to the mask; `key` names what is adjusted. Returns whether the mask changed. */
  apply(key, mask, change) {
    const again = this.follows(key, mask) && this.own;
    if (again) mask.undo();
    mask.begin();
    change();
    this.own = mask.end(); // whether the last step is a result
    Object.assign(this, { key, mask, last: mask.done.at(-1) });
    return this.own || again;
  }

  /** Whether nothing has changed the mask since it was adjusted with this key. */
  follows(key, mask) {
    return this.key === key && this.mask === mask && mask.done.at(-1) === this.last;
  }

  /** The next change is another step. */
  end() {
    this.key = null;
  }
}

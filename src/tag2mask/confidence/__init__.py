"""How sure a mask is where nobody drew the truth: the evidence, and one number that estimates the mask's IoU."""

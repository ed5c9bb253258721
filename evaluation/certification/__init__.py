"""What a certificate of unlearning claims, and whether it is right.

`renyi.py` accounts for clipped gradients, `hockey_stick.py` for noise on the weights and for clipped models, and
`dp_sgd.py` for originals trained by DP-SGD; `mechanisms.py` brings them together. `certificates.py` is the file,
`finishing.py` makes it of what a method claims, and `verification.py` recomputes it. Everywhere `epsilon` and
`delta` mean: whatever event is looked at, its probability among unlearned models is at most exp(epsilon) times that
among models that never saw the forget set, plus delta, and the other way round.
"""

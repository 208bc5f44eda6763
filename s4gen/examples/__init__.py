"""Show one idea in each small program. Run one by `python -m s4gen.examples.NAME`.

Read these four first; they have at most 60 lines and take no arguments:

    step_by_hand   one layer by its convolution, by its step, and by a recurrence written out
    toy            a density model from nothing to samples
    chunks         a long signal in chunks, with a state that is saved and restored
    own_layer      a new layer, and the three methods that it needs

The others are tools with options (`-h` lists them): `remember` plots what a HiPPO state keeps of a signal, `digits`
trains the classifier of spoken digits, `odd_ones` asks whether a likelihood tells odd images from usual ones,
`ablation` measures what each part of an image model is worth, `stragglers` simulates bulk work in parts.
"""

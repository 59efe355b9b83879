"""Token ids in, logits and their statistics out. Knows no text, no web and no training.

Every token of rmx is made by one step. From the request down to the network:

    Generation, outcomes, rescue, rollouts, evaluation, patches, …
       │  Decodings: ids to read, how to choose tokens, what to call with each of them, when it is over
       ▼
    scheduler  people's streams (`Scheduler`): whoever waits for its next token does one step for all of them
    batch      long work: continuations of one text, samples of many prompts
       ▼
    scheduler  the step itself (`Decoder`): end who was cancelled, read ids, feed every stream its newest token, choose
               the next
    rows       which streams share a pass: base and plain LoRAs, each row under its own adapter and strength; an
               adapter that does not scale linearly has rows of its own; recurrent state takes its step alone
    arena      the rows of a pass: one cache of static shape, a position and a mask for each row, sliding windows too
    engine     the network: read a prompt (`open`), append tokens (`forward`), switch adapters, also row by row
    entropy, token_draws   logits to statistics and to the next tokens; a few numbers of each row leave the device
    prefix_cache           keys and values of what was computed, for the next swap of the same owner; and of what all
                           prompts of a style begin with, such as solved examples, for everybody

A comparison of two models (rmx/models/model_pair.py) steps its rows itself (`RowBatch`), since the next token depends
on both. Prompts are read once for all streams that go on from them (`Prefix`), and several short ones that wait at the
same time by one pass; a branch is a copy of a row. On CUDA, passes of a shape that lasts are recorded once and
replayed; on a CPU the matrices of a large network are packed (acceleration).

Whose turn it is: fair_queue. People's streams share a turn, at most `SEATS` of them and as many as fit into
`SEAT_BYTES`. Other work has the engine alone, and whoever has had a slice gives way between two steps to who goes first
(`Engine.give_way`): watched work before measured, measured before bulk, bulk before what nobody has asked for. Its rows
stay where they are meanwhile. While people's streams never end, a question or a measurement that waits has a third of
the time, bulk work a ninth. It does not join their steps: its figures would then round by who else is there, and every
word would wait for all its rows. decoding_memory bounds what all rows of long work take together.

What holds whoever else is there: a draw depends on (seed, prompt, sample, position) only; a row's logits depend on the
arena's bucket (slots, width) only, to the last bit; a cold run is computed alone, and on a CPU so is a stream that has
the model to itself. Between two buckets the last digits round otherwise, which turns a near tie now and then.
"""

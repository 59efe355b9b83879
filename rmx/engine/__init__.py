"""Token ids in, logits and their statistics out. Knows no text, no web and no training.

The way of a visitor's solution, from the request to its tokens:

    Generation (rmx/explore/generate.py)
       │  Decoding: ids to read, how to choose tokens, what to call with each of them and when it is over
       ▼
    fair_queue    a ticket: whose turn it is. Streams share a turn, at most `SEATS` of them and as many as fit into
                  `SEAT_BYTES`; all other work has the engine alone, and both give way to each other between steps
    scheduler     whoever waits for its next token does one step for all streams, if nobody is at it already:
                  it takes out who has stopped, reads a piece of the next prompt, steps, hands the tokens over
    arena         the streams as rows of one cache of static shape; copied in when there are two or more, and out again
    engine        the network: read a prompt (`open`), append tokens (`forward`), switch adapters, also row by row
    entropy, token_draws   logits to statistics and to the next tokens; a few numbers of each row leave the device
    prefix_cache  keys and values of what was computed, for the next swap of the same owner

What holds whoever else is there: a draw depends on (seed, prompt, sample, position) only; a row's logits depend on the
arena's bucket (slots, width) only; a stream alone is computed as a cold run computes it, and a cold run always alone.

Long work takes the engine for itself and gives way (`Engine.give_way`): batch (branches of one prefix), and
continuous_batching (samples of many prompts), whose memory decoding_memory bounds; kv_cache has the layers of both.
"""

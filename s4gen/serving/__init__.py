"""Serve models over HTTP: one process, in which the rows of all requests are drawn side by side.

    app          which address is answered by what
    guard        who may ask: hosts, origins, the token, the size of a body
    completions, pictures, sounds    one module for each kind of model: a request's fields, its rows, its answer
    orders       what a request asks for: rows to be drawn, and the channel in which what is drawn comes back
    worker       the thread that reads prompts and draws; orders wait for it in a queue of bounded length
    batch        rows side by side in one session of an engine, which join and leave at any step
    costs        what the tokens of a row cost, for requests that want to know
    served       a model that is served: its converted form, its engines
    server       the socket, signals, the end
    watching     connections that are idle, or that nobody reads from
    page/        the page at `/`: plain HTML, CSS and JavaScript

A row is the same, bit for bit, as `s4gen sample` draws it with that seed, whatever is drawn beside it: its random
numbers belong to it, its prompts are read with those of its own request alone, and an engine computes each row alike in
any batch.
"""

"""The HTTP server: loaded bundles behind the API that OpenAI's clients speak.

Boundary: a request in, one call of a session, its pieces out. In the order in which a request meets them:

    guard.py          who may ask: host names, origins, keys          serving.py       the process: socket, signals, end
    app.py            the routes                                      settings.py      what can be set
    body.py           bytes of a request under limits → JSON          problems.py      errors in OpenAI's shape
    fields.py         one JSON object, read member by member          metrics.py       what Prometheus is told
    parameters.py     what all endpoints take: sampling, refusals     prefixes.py      conversations whose keys are kept
    content.py        messages whose media are bytes                  fair_queue.py    whose turn it is
    *_request.py      one endpoint: JSON → a frozen request           worker.py        the thread that owns a session
    *_answer.py       one endpoint: pieces → its shapes               models.py        the bundles, by name
    answering.py      a job seen from the event loop                  event_stream.py  pieces as server-sent events

Needs the extra `server` of the package; nothing outside this folder imports it but the verb `serve`.
"""

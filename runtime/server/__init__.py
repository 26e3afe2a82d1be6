"""The HTTP server: loaded bundles behind the API that OpenAI's clients speak.

Boundary: a request in, one call of a session, its pieces out. In the order in which a request meets them:

    serving.py        the process: socket, signals, end         models.py        the bundles, by name
    settings.py       what can be set                           bundles.py       what a bundle says before it is loaded
    guard.py          who may ask: hosts, origins, keys         worker.py        the thread that owns a session
    app.py            the routes, and what is around them       jobs.py          what it is told, what it reports
    endpoints.py      what each route does                      fair_queue.py    whose turn it is
    body.py           bytes under limits → JSON, forms          seats.py         how many models are in memory
    fields.py         one JSON object, member by member
    parameters.py     sampling, and what is refused             answering.py     a job seen from the event loop
    content.py        messages whose media are bytes            event_stream.py  server-sent events
    tool_fields.py    tools     forms.py    form of an answer   writing.py       what all answers have in common
    *_request.py      an endpoint: JSON → a frozen request      *_answer.py      an endpoint: pieces → its shapes
    problems.py       errors in OpenAI's shape                  metrics.py       what Prometheus is told
    page.py           the chat page, whose files are in static/ openapi.py       what the API looks like, for programs

Needs the extra `server` of the package; nothing outside this folder imports it but the verb `serve`.
"""

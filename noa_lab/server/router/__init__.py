"""One endpoint for several models: every llama-server route, by model name or task tag.

The router is a process of its own under a watcher, like a llama-server. It starts a model's llama-server on the first request for it,
lets the others wait fairly, and ends servers that are idle when memory is needed.

The HTTP contract
-----------------
Address and key: `Router.base_url` ("http://127.0.0.1:8080", server.yaml's `server.port`) and `Router.api_key`, sent as
`Authorization: Bearer KEY` or `X-Api-Key: KEY`. Only /health and /v1/health need no key. The `openai` package wants `base_url + "/v1"`.

Which model: `model` in a JSON body, else `?model=` (the way for GET and for bodies that are not JSON), else the default model. It is a
name of server.yaml; or a task tag ("code", "fast-agent", "general", "reasoning"), which means the first model in the file's order
that has it: the same model each time, loaded or not. The body is passed on with `model` as it was; `model` in the answer and the
header `X-Noa-Lab-Model` name the model that answered. `X-Noa-Lab-Queue-Ms` says how long the request waited here, loading included.

Passed on as they are, answers and streams alike: /completion, /completions, /v1/completions, /chat/completions,
/v1/chat/completions, /v1/responses, /v1/messages, /infill, /embedding(s), /v1/embeddings, /rerank(ing), /v1/rerank(ing), /tokenize,
/detokenize, /apply-template, /props, /lora-adapters, /slots/ID and every other route of llama-server. Completion routes get
server.yaml's `inference` values where the request leaves them out. Closing the connection cancels: also while waiting, or during
the prompt.

Of the router itself:

    GET  /health, /v1/health     {"status": "ok"}
    GET  /v1/models, /models     {"object": "list", "data": [{"id", "object": "model", "owned_by": "noa_lab", "created", "tags",
                                 "default", "pinned", "status": {"value"}, "in_flight", "waiting", "slots", "memory_bytes"}]};
                                 status is "unloaded", "loading", "loaded", "unloading" or "failed" (then with "reason")
    POST /models/load            {"model"}: load it now; answers when it is loaded
    POST /models/unload          {"model"}: unload it; refused while it is busy
    GET  /slots, /metrics        without `model`: [], and the router's own counters; with it: the model's, never loading it

Errors have llama-server's form, {"error": {"code", "message", "type", ...}}:

    400 invalid_request_error    a body that is no JSON object, a `model` that is no text
    401 authentication_error     no key, or a wrong one
    403 permission_error         a page of another origin, or a Host that is not this machine
    404 model_not_found          no such name or tag; "known" lists them, "nearest" the likeliest
    409 model_busy               /models/unload of a model at work
    502 model_died               llama-server ended before the answer; sent again once if no byte of the answer had come
    503 model_failed             the model does not load; "reason" says why
    503 model_too_large          it does not fit into the memory budget; "needed_bytes", "budget_bytes"
    503 queue_full               too many requests wait
    503 unavailable_error        the router is ending, or the model is not loaded (/slots, /metrics)
A stream that breaks after its first byte ends with an error event, {"error": ...}, and an aborted connection.
"""

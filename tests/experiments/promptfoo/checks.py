def get_assert(output, context):
    return {"pass": "Paris" in output, "score": 0.5 if context["vars"]["country"] == "France" else 0.0, "reason": ""}

"""What the backends that come with the server share: a model file's tensors against the configuration. Ports are (name, data_type, dims);
-1 is any extent.
"""

import triton_python_backend_utils as pb_utils

_DEFAULT_MAX_BATCH_SIZE = 4


def data_type(config, kind, name, found, types):
    if found not in types:
        raise pb_utils.TritonModelException("model '%s': %s '%s' is %s, which has no Triton datatype" % (config["name"], kind, name, found))
    return types[found]


def complete(auto_complete, inputs, outputs):
    """Adds what the configuration does not say; batches where it says nothing and the first extent of every port is any."""
    config = auto_complete.as_dict()
    batching = config.get("max_batch_size", 0) > 0
    if not batching and not config.get("input") and not config.get("output"):
        batching = all(dims and dims[0] == -1 for _, _, dims in inputs + outputs)
        if batching:
            auto_complete.set_max_batch_size(_DEFAULT_MAX_BATCH_SIZE)
            if not config.get("sequence_batching"):
                auto_complete.set_dynamic_batching()
    for kind, ports, add in (("input", inputs, auto_complete.add_input), ("output", outputs, auto_complete.add_output)):
        known = {t["name"] for t in config.get(kind) or ()}
        for name, type, dims in ports:
            if name in known:
                continue
            dims = dims[1:] if batching else dims
            tensor = {"name": name, "data_type": type, "dims": dims}
            if not dims:  # a scalar per request: Triton wants one dimension, the model none
                tensor["dims"], tensor["reshape"] = [1], {"shape": []}
            add(tensor)
    return auto_complete


def check(config, inputs, outputs):
    """The tensors that the configuration names are in the model, with these types."""
    for kind, ports in (("input", inputs), ("output", outputs)):
        present = {name: type for name, type, _ in ports}
        for wanted in config.get(kind) or ():
            name, type = wanted["name"], wanted["data_type"]
            if name not in present:
                raise pb_utils.TritonModelException(
                    "model '%s': %s '%s' of the configuration is not in the model, which has %s" % (config["name"], kind, name, ", ".join(present))
                )
            if present[name] != type:
                raise pb_utils.TritonModelException(
                    "model '%s': %s '%s' is %s in the configuration and %s in the model" % (config["name"], kind, name, type, present[name])
                )


def respond(requests, backend, one):
    """The responses of one(request), or its errors, each by itself."""
    responses = []
    for request in requests:
        try:
            responses.append(one(request))
        except Exception as e:
            error = pb_utils.TritonError("%s: %s" % (backend, e), pb_utils.TritonError.INTERNAL)
            responses.append(pb_utils.InferenceResponse(error=error))
    return responses

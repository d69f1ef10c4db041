"""Avro schemas as JSON: without logical types, and in one form in which equal schemas are equal however they are written."""

NAMED = ("record", "enum", "fixed")
PRIMITIVE = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
KEPT = ("symbols", "size", "logicalType", "precision", "scale", "default")


def strip(node):
    """The schema without its logical types: what is written is then what is read."""
    if isinstance(node, dict):
        return {k: strip(v) for k, v in node.items() if k not in ("logicalType", "precision", "scale")}
    return [strip(n) for n in node] if isinstance(node, list) else node


def space_of(node, space):
    """The namespace inside of a named type."""
    if "." in node["name"]:
        return node["name"].rpartition(".")[0]
    return node.get("namespace", space)


def full_name(name, space):
    return name if "." in name or not space else f"{space}.{name}"


def canonical(node, known, space=""):
    """Full names, no docs, no aliases. A type in `known` (a set, which grows) is told by its name alone."""
    if isinstance(node, str):
        return node if node in PRIMITIVE else full_name(node, space)
    if isinstance(node, list):
        return [canonical(n, known, space) for n in node]
    kind = node["type"]
    if isinstance(kind, (dict, list)):
        return canonical(kind, known, space)
    kept = {k: node[k] for k in KEPT if k in node}
    if kind in NAMED:
        space = space_of(node, space)
        name = full_name(node["name"], space)
        if name in known:
            return name
        known.add(name)
        kept["name"] = name
    if kind == "record":
        kept["fields"] = fields(node, known, space)
    for inner in ("items", "values"):
        if inner in node:
            kept[inner] = canonical(node[inner], known, space)
    return {"type": kind, **kept} if kept else canonical(kind, known, space)


def fields(record, known, space=None):
    """The fields of a record in canonical form."""
    space = space_of(record, "") if space is None else space
    return [{k: f[k] for k in ("name", "default") if k in f} | {"type": canonical(f["type"], known, space)} for f in record["fields"]]

"""The few calls of the Confluent Schema Registry API that the tools need. Standard library, and fastavro to parse."""

import json
import urllib.request

from fastavro import parse_schema

import pipelines
from schema import strip

CONTENT = "application/vnd.schemaregistry.v1+json"


def _call(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(pipelines.REGISTRY + path, data, {"Content-Type": CONTENT})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def register(pipeline, prefix):
    """Registers the schema of the pipeline's input topic, and before it what it references; returns its id."""
    references = []
    for name, file in pipeline.references:
        subject = f"{prefix}{file}"
        _call(f"/subjects/{subject}/versions", {"schema": (pipelines.SCHEMAS / f"{file}.avsc").read_text("utf-8")})
        latest = _call(f"/subjects/{subject}/versions/latest")["version"]
        references.append({"name": name, "subject": subject, "version": latest})
    body = {"schema": pipeline.text(), **({"references": references} if references else {})}
    return _call(f"/subjects/{pipeline.topic(prefix)}-value/versions", body)["id"]


def fetch(schema_id):
    """(the schema as registered, the schema parsed for fastavro without logical types)."""
    answer = _call(f"/schemas/ids/{schema_id}")
    named = {}
    _references(answer, named)
    schema = json.loads(answer["schema"])
    return schema, parse_schema(strip(schema), named_schemas=named)


def _references(answer, named):
    for r in answer.get("references") or ():
        version = _call(f"/subjects/{r['subject']}/versions/{r['version']}")
        _references(version, named)
        parse_schema(strip(json.loads(version["schema"])), named_schemas=named)

"""Compares files with published schemas. Prints a JSON list with the faults of each file.

    schemas.py dashboard FILE…           dashboards, with Grafana's schema (grafana-foundation-sdk)
    schemas.py custom-resources FILE…    PodMonitors and PrometheusRules, with the Prometheus Operator's schema (cloudcoil)

The libraries ignore fields that they do not know, so each file is read, written again and compared.
"""

import enum
import json
import sys
import typing


def lost(before, after, path=""):
    """The places of `before` that `after` does not have, or has with another value."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key not in after:
                yield f"{path}/{key}: the schema has no such field"
            else:
                yield from lost(value, after[key], f"{path}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after)):
            yield from lost(one, other, f"{path}/{index}")
    elif before != after:
        yield f"{path}: {before!r} was read as {after!r}"


def mistyped(value, expected, path=""):
    """The places whose values do not have the types that the classes of the schema give them."""
    options = typing.get_args(expected) if typing.get_origin(expected) is typing.Union else (expected,)
    kinds = [kind for kind in options if kind is not type(None)]
    if value is None and len(kinds) < len(options):
        return
    if hasattr(value, "to_json"):
        for name, hint in typing.get_type_hints(type(value)).items():
            yield from mistyped(getattr(value, name), hint, f"{path}/{name}")
    elif isinstance(value, list):
        elements = [typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is list]
        for index, element in enumerate(value):
            for kind in elements:
                yield from mistyped(element, kind, f"{path}/{index}")
    elif not any(fits(value, kind) for kind in kinds):
        yield f"{path}: {value!r} is none of {', '.join(map(str, kinds))}"


def fits(value, kind):
    """Whether a value, which is neither an object of the schema nor a list, has the type `kind`."""
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return value in [member.value for member in kind]
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    # Other types are containers and free-form values.
    return isinstance(value, kind) if kind in (str, bool) else not isinstance(kind, type) or kind is object


def dashboard_faults(text):
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    # Without these, the options and queries of panels would not be read.
    register_default_plugins()
    before = json.loads(text)
    dashboard = Dashboard.from_json(before)
    # Grafana's data source Prometheus reads these two, which are not in the schema of annotations.
    for annotation in before.get("annotations", {}).get("list", []):
        annotation.pop("titleFormat", None)
        annotation.pop("textFormat", None)
    yield from lost(before, json.loads(JSONEncoder().encode(dashboard)))
    yield from mistyped(dashboard, Dashboard)


def custom_resource_faults(text):
    import yaml
    from cloudcoil.models.prometheus_operator import v1
    from pydantic import ValidationError

    for number, resource in enumerate(yaml.safe_load_all(text)):
        kinds = {"PodMonitor": v1.PodMonitor, "PrometheusRule": v1.PrometheusRule}
        try:
            read = kinds[resource["kind"]].model_validate(resource)
        except ValidationError as error:
            yield f"/{number}: {error}"
            continue
        after = read.model_dump(mode="json", by_alias=True, exclude_unset=True)
        yield from lost(resource, after, f"/{number}")


def main():
    commands = {"dashboard": dashboard_faults, "custom-resources": custom_resource_faults}
    _, command, *paths = sys.argv
    faults = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            faults.append(list(commands[command](file.read())))
    print(json.dumps(faults))


if __name__ == "__main__":
    main()

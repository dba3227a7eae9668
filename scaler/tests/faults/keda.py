"""Asks a scaler what KEDA asks, with gRPC's own client for Python: keda.py ADDRESS NAMESPACE.

Prints a JSON object with the answers. An error of a call is its code and its message.
"""

import json
import pathlib
import sys

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).parent))
messages, services = grpc.protos_and_services("externalscaler.proto")


def answer(call):
    """The fields of the answer to a call, or its error."""
    try:
        return call()
    except grpc.RpcError as error:
        return {"code": error.code().name, "message": error.details()}


def main():
    address, namespace = sys.argv[1:]
    channel = grpc.insecure_channel(address)
    scaler = services.ExternalScalerStub(channel)

    def trigger(**metadata):
        return messages.ScaledObjectRef(name="replica", namespace=namespace, scalerMetadata=metadata)

    def spec():
        answered = scaler.GetMetricSpec(trigger(), timeout=10).metricSpecs
        return [[spec.metricName, spec.targetSize, spec.targetSizeFloat] for spec in answered]

    def metrics(**metadata):
        request = messages.GetMetricsRequest(
            scaledObjectRef=trigger(**metadata), metricName="scaler_desired_replicas"
        )
        answered = scaler.GetMetrics(request, timeout=10).metricValues
        return [[value.metricName, value.metricValue, value.metricValueFloat] for value in answered]

    def pushed():
        stream = scaler.StreamIsActive(trigger(target="replica"), timeout=10)
        first = next(stream).result
        stream.cancel()
        return first

    print(
        json.dumps(
            {
                "spec": answer(spec),
                "metrics": answer(lambda: metrics(scalerAddress=address)),
                "active": answer(lambda: scaler.IsActive(trigger(), timeout=10).result),
                "pushed": answer(pushed),
                "unknown key": answer(lambda: metrics(taget="replica")),
                "huge": answer(lambda: metrics(target="x" * 1_000_000)),
            }
        )
    )


main()

//! The messages of KEDA's interface for external scalers: the numbers and types of `externalscaler.proto`. Without a
//! compiler of `.proto` files in the build, they are written by hand.

use prost::Message;
use std::collections::BTreeMap;

/// A trigger of a ScaledObject.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ScaledObjectRef {
    /// The name of the ScaledObject.
    #[prost(string, tag = "1")]
    pub(super) name: String,
    /// The namespace of the ScaledObject, which is also that of its target.
    #[prost(string, tag = "2")]
    pub(super) namespace: String,
    /// The trigger's metadata.
    #[prost(btree_map = "string, string", tag = "3")]
    pub(super) scaler_metadata: BTreeMap<String, String>,
}

/// Whether the target of a trigger needs a replica.
#[derive(Clone, PartialEq, Message)]
pub(super) struct IsActiveResponse {
    /// The answer.
    #[prost(bool, tag = "1")]
    pub(super) result: bool,
}

/// The metrics of a trigger, without their values.
#[derive(Clone, PartialEq, Message)]
pub(super) struct GetMetricSpecResponse {
    /// The metrics.
    #[prost(message, repeated, tag = "1")]
    pub(super) metric_specs: Vec<MetricSpec>,
}

/// A metric, and the value that a replica stands for.
#[derive(Clone, PartialEq, Message)]
pub(super) struct MetricSpec {
    /// The name of the metric.
    #[prost(string, tag = "1")]
    pub(super) metric_name: String,
    /// The value that a replica stands for. Older KEDAs read only this.
    #[prost(int64, tag = "2")]
    pub(super) target_size: i64,
    /// The same for newer KEDAs.
    #[prost(double, tag = "3")]
    pub(super) target_size_float: f64,
}

/// A question for the value of a metric.
#[derive(Clone, PartialEq, Message)]
pub(super) struct GetMetricsRequest {
    /// The trigger.
    #[prost(message, optional, tag = "1")]
    pub(super) scaled_object_ref: Option<ScaledObjectRef>,
    /// The name of the metric, without the number that KEDA puts before it.
    #[prost(string, tag = "2")]
    pub(super) metric_name: String,
}

/// The values of metrics.
#[derive(Clone, PartialEq, Message)]
pub(super) struct GetMetricsResponse {
    /// The values.
    #[prost(message, repeated, tag = "1")]
    pub(super) metric_values: Vec<MetricValue>,
}

/// The value of a metric.
#[derive(Clone, PartialEq, Message)]
pub(super) struct MetricValue {
    /// The name of the metric.
    #[prost(string, tag = "1")]
    pub(super) metric_name: String,
    /// The value. Older KEDAs read only this.
    #[prost(int64, tag = "2")]
    pub(super) metric_value: i64,
    /// The same for newer KEDAs.
    #[prost(double, tag = "3")]
    pub(super) metric_value_float: f64,
}

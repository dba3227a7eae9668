//! An external scaler of KEDA: answers over gRPC what `--advise` recommends. KEDA scales the target by the answers. Knows
//! nothing of connections, and writes nothing to the cluster.

mod connections;
mod messages;

pub use connections::Server;

use crate::advice::{AdvisedTarget, AdvisedTargets, NoAdvice};
use futures_util::{Stream, stream};
use hyper::body::Incoming;
use hyper::{Request, Response};
use messages::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef,
};
use prost::Message;
use service::wire::metric::DESIRED_REPLICAS;
use std::future::ready;
use std::time::Duration;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

/// The key of a trigger's metadata that selects a target by its name, or by its value of `--target`.
const TARGET_KEY: &str = "target";

/// The keys of a trigger's metadata that KEDA reads itself and passes on nevertheless.
const KEDA_KEYS: [&str; 7] =
    ["scalerAddress", "enableTLS", "unsafeSsl", "caCert", "tlsCertFile", "tlsClientCert", "tlsClientKey"];

/// The recommendation for one replica. The HPA divides the recommendation by it, and rounds up.
const TARGET_SIZE: u32 = 1;

/// The largest message of a client, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// The time in which the message of a call must arrive.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Most characters of an error. Without a limit, an error could quote a whole message.
const MAX_ERROR_LENGTH: usize = 500;

/// The service `externalscaler.ExternalScaler`. All clones share the targets.
#[derive(Debug, Clone)]
struct ExternalScaler {
    targets: AdvisedTargets,
    /// Whether the program stops. Streams then end.
    stop: watch::Receiver<bool>,
}

impl ExternalScaler {
    /// Answers a call. An answer with an error has status 200, as gRPC requires, and the error in its trailers.
    async fn call(self, request: Request<Incoming>) -> Response<Body> {
        let answer = async {
            match request.uri().path() {
                "/externalscaler.ExternalScaler/IsActive" => unary(request, |object| self.is_active(object)).await,
                "/externalscaler.ExternalScaler/GetMetricSpec" => {
                    unary(request, |object| self.metric_spec(object)).await
                }
                "/externalscaler.ExternalScaler/GetMetrics" => unary(request, |wanted| self.metrics(wanted)).await,
                "/externalscaler.ExternalScaler/StreamIsActive" => {
                    let answer = |request: tonic::Request<ScaledObjectRef>| {
                        ready(self.activity(request.get_ref()).map(tonic::Response::new))
                    };
                    grpc().server_streaming(tower::service_fn(answer), request).await
                }
                path => status(Code::Unimplemented, &format!("this scaler has no method {path}")).into_http(),
            }
        };
        tokio::time::timeout(CALL_TIMEOUT, answer).await.unwrap_or_else(|_elapsed| {
            let message = format!("the message did not arrive within {CALL_TIMEOUT:?}");
            status(Code::DeadlineExceeded, &message).into_http()
        })
    }

    /// The target that a trigger names.
    fn target(&self, object: &ScaledObjectRef) -> Result<&AdvisedTarget, Status> {
        let metadata = &object.scaler_metadata;
        let is_unknown = |key: &&String| *key != TARGET_KEY && !KEDA_KEYS.contains(&key.as_str());
        if let Some(key) = metadata.keys().find(is_unknown) {
            let message = format!(
                "the trigger's metadata has the key {key:?}, which neither KEDA nor this scaler knows; remove it, or \
                 write {TARGET_KEY} to name a target"
            );
            return Err(status(Code::InvalidArgument, &message));
        }
        Ok(self.targets.find(&object.namespace, metadata.get(TARGET_KEY).map(String::as_str))?)
    }

    fn is_active(&self, object: &ScaledObjectRef) -> Result<IsActiveResponse, Status> {
        Ok(IsActiveResponse { result: is_active(self.target(object)?.replicas()?) })
    }

    fn metric_spec(&self, object: &ScaledObjectRef) -> Result<GetMetricSpecResponse, Status> {
        self.target(object)?;
        let spec = MetricSpec {
            metric_name: DESIRED_REPLICAS.into(),
            target_size: TARGET_SIZE.into(),
            target_size_float: TARGET_SIZE.into(),
        };
        Ok(GetMetricSpecResponse { metric_specs: vec![spec] })
    }

    fn metrics(&self, wanted: &GetMetricsRequest) -> Result<GetMetricsResponse, Status> {
        let GetMetricsRequest { scaled_object_ref, metric_name } = wanted;
        if metric_name != DESIRED_REPLICAS {
            let message = format!("this scaler has no metric {metric_name:?}; it has {DESIRED_REPLICAS}");
            return Err(status(Code::InvalidArgument, &message));
        }
        let object = scaled_object_ref.as_ref();
        let object = object.ok_or_else(|| status(Code::InvalidArgument, "the request names no ScaledObject"))?;
        let replicas = self.target(object)?.replicas()?;
        let value = MetricValue {
            metric_name: DESIRED_REPLICAS.into(),
            metric_value: replicas as i64,
            metric_value_float: replicas as f64,
        };
        Ok(GetMetricsResponse { metric_values: vec![value] })
    }

    /// Whether the target needs a replica: the present state, and then each change. Says nothing while there is no
    /// recommendation, since an error would make KEDA wait for up to a minute before it asks again.
    fn activity(
        &self,
        object: &ScaledObjectRef,
    ) -> Result<impl Stream<Item = Result<IsActiveResponse, Status>> + use<>, Status> {
        let state = (self.target(object)?.clone(), None, self.stop.clone());
        Ok(stream::unfold(state, |(mut target, told, mut stop)| async move {
            let result = tokio::select! {
                result = next_activity(&mut target, told) => result?,
                _stopped_or_dropped = stop.wait_for(|&stop| stop) => return None,
            };
            Some((Ok(IsActiveResponse { result }), (target, Some(result), stop)))
        }))
    }
}

/// Waits until the activity of a target is known and differs from `told`. `None` if the target is no longer advised.
async fn next_activity(target: &mut AdvisedTarget, told: Option<bool>) -> Option<bool> {
    loop {
        target.advice.mark_unchanged();
        if let Some(result) = target.replicas().ok().map(is_active).filter(|&result| told != Some(result)) {
            return Some(result);
        }
        target.advice.changed().await.ok()?;
    }
}

/// Whether a target is active: KEDA keeps an inactive one at no replicas, if its minimum permits that.
fn is_active(replicas: usize) -> bool {
    replicas >= 1
}

/// Answers a call that has one answer.
async fn unary<M, R>(request: Request<Incoming>, answer: impl Fn(&M) -> Result<R, Status>) -> Response<Body>
where
    M: Message + Default + 'static,
    R: Message + 'static,
{
    let answer = |request: tonic::Request<M>| ready(answer(request.get_ref()).map(tonic::Response::new));
    grpc().unary(tower::service_fn(answer), request).await
}

/// Reads messages of the type `M`, and writes messages of the type `R`.
fn grpc<M, R>() -> Grpc<ProstCodec<R, M>>
where
    M: Message + Default + 'static,
    R: Message + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// An error for KEDA, which writes it to its log.
fn status(code: Code, message: &str) -> Status {
    Status::new(code, message.chars().take(MAX_ERROR_LENGTH).collect::<String>())
}

impl From<NoAdvice> for Status {
    fn from(error: NoAdvice) -> Self {
        let code = match error {
            NoAdvice::Unknown { .. } => Code::NotFound,
            NoAdvice::Ambiguous(_) => Code::InvalidArgument,
            NoAdvice::Stale(_) => Code::Unavailable,
        };
        status(code, &error.to_string())
    }
}

#[cfg(test)]
mod tests;

//! Reads a HorizontalPodAutoscaler. Knows nothing of its fields.

use crate::name::ObjectName;
use crate::{ApiError, request};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;

/// The versions of the API that are asked for the object, the newest first. Clusters before 1.23 have no `v2`, and those
/// before 1.12 only `v1`.
const VERSIONS: [&str; 3] = ["v2", "v2beta2", "v1"];

/// The HorizontalPodAutoscaler `name` as JSON, in the newest version that the API server has. Its `apiVersion` names the
/// version.
///
/// # Errors
/// If there is no such object, the API server refuses the request, or it does not answer within five seconds.
pub async fn read(client: &Client, name: &ObjectName) -> Result<Value, ApiError> {
    let mut absent = None;
    for version in VERSIONS {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("autoscaling", version, "HorizontalPodAutoscaler"));
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), &name.namespace, &kind);
        match request(api.get(&name.name)).await {
            Ok(object) => {
                return serde_json::to_value(object).map_err(|error| ApiError::Unreadable(error.to_string()));
            }
            // Either the API server does not have this version, or there is no such object. Then the last version, which
            // every API server has, gives the better message.
            Err(error) if error.is(404) => absent = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(absent.expect("there are versions, and each was absent"))
}

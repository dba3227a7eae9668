//! The Events of pods that wait for a node, listed at the API server while there are such pods.

use super::room::{Outlooks, outlook};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use kubernetes::denials::Denials;
use kubernetes::{ApiError, request};
use tokio::time::Instant;

/// The most pods for which Events are listed at once. All replicas have one template, so the others get the same answer.
const MAX_PODS: usize = 3;

/// The most Events that are read of one pod. There is one for each reason and program, and the cluster counts repetitions.
const MAX_EVENTS: u32 = 100;

/// The Events of the pods of one namespace.
pub struct PodEvents {
    api: Api<Event>,
    denials: Denials,
    has_warned: bool,
    /// What the Events say.
    pub outlooks: Outlooks,
}

impl PodEvents {
    /// The Events of `namespace`, of which none is known yet.
    pub fn new(client: &Client, namespace: &str) -> Self {
        let outlooks = Outlooks { are_told: true, ..Outlooks::default() };
        Self {
            api: Api::namespaced(client.clone(), namespace),
            denials: Denials::default(),
            has_warned: false,
            outlooks,
        }
    }

    /// Lists the Events of the oldest of `pods`, which all wait for a node. An autoscaler has told its plans for these first,
    /// and the later ones may fit on a node that is coming already. If listing is forbidden, nothing is known of any pod.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn refresh(&mut self, pods: impl Iterator<Item = &Pod>) -> Result<(), ApiError> {
        let before = std::mem::take(&mut self.outlooks.of_pods);
        let mut pods: Vec<&Pod> = pods.collect();
        pods.sort_by_cached_key(|pod| (pod.creation_timestamp().map(|created| created.0), pod.name_any()));
        for pod in pods.into_iter().take(MAX_PODS) {
            let (uid, name) = (pod.uid().unwrap_or_default(), pod.name_any());
            let of_pod = format!("regarding.kind=Pod,regarding.name={name}");
            let answer = request(self.api.list(&ListParams::default().fields(&of_pod).limit(MAX_EVENTS))).await;
            self.denials.note(answer.as_ref().err(), Instant::now());
            self.outlooks.are_told = !self.denials.last(Instant::now());
            match answer {
                Ok(list) => {
                    let is_of_pod = |event: &Event| {
                        let regarding = event.regarding.as_ref().and_then(|regarding| regarding.uid.as_ref());
                        regarding.is_none_or(|regarding| *regarding == uid)
                    };
                    let events: Vec<Event> = list.items.into_iter().filter(is_of_pod).collect();
                    self.outlooks.of_pods.insert(uid, outlook(&events));
                }
                Err(failure @ ApiError::Unanswered(_)) => return Err(failure),
                Err(failure) => {
                    if !self.outlooks.are_told && !self.has_warned {
                        self.has_warned = true;
                        tracing::warn!(
                            "cannot list the Events of pods: {failure}; let the scaler list events (events.k8s.io), or it \
                             cannot tell a cluster that adds a node from one that is full"
                        );
                    }
                    // The last answer counts until the next one.
                    if let Some(last) = before.get(&uid) {
                        self.outlooks.of_pods.insert(uid, last.clone());
                    }
                }
            }
        }
        Ok(())
    }
}

//! The check of what each ServiceAccount may do and may not do. That the privileges suffice is shown by the other
//! checks.

use crate::kubectl::Kubectl;
use anyhow::{Result, ensure};

/// For each ServiceAccount, the actions that it may do (`true`) or may not do (`false`). An action is the arguments of
/// `kubectl auth can-i`.
const PRIVILEGES: &[(&str, bool, &[&str])] = &[
    (
        "dispatcher",
        true,
        &[
            "list endpointslices.discovery.k8s.io",
            "watch endpointslices.discovery.k8s.io",
            "list endpoints",
            "watch endpoints",
        ],
    ),
    (
        "dispatcher",
        false,
        &[
            "create endpointslices.discovery.k8s.io",
            "update endpoints",
            "delete endpoints",
            "list pods",
            "get secrets",
            "list secrets",
            "get configmaps",
            "list deployments.apps",
            "patch deployments.apps/replica --subresource=scale",
            "create pods",
            "create events.events.k8s.io",
            "get leases.coordination.k8s.io",
            "list services",
            "list nodes",
            "list endpointslices.discovery.k8s.io --all-namespaces",
        ],
    ),
    (
        "scaler",
        true,
        &[
            "list deployments.apps/replica",
            "watch deployments.apps/replica",
            "get deployments.apps/replica --subresource=scale",
            "patch deployments.apps/replica --subresource=scale",
            "list pods",
            "watch pods",
            "create leases.coordination.k8s.io",
            "get leases.coordination.k8s.io/roundhouse-scaler-replica",
            "update leases.coordination.k8s.io/roundhouse-scaler-replica",
            "create events.events.k8s.io",
            "list events.events.k8s.io",
            "list horizontalpodautoscalers.autoscaling",
        ],
    ),
    (
        "scaler",
        false,
        &[
            "list deployments.apps",
            "patch deployments.apps/replica",
            "update deployments.apps/replica",
            "delete deployments.apps/replica",
            "create deployments.apps",
            "patch deployments.apps/dispatcher --subresource=scale",
            "patch deployments.apps/scaler --subresource=scale",
            "update deployments.apps/replica --subresource=scale",
            "delete pods",
            "create pods",
            "patch pods",
            "create pods --subresource=exec",
            "get pods --subresource=log",
            "list secrets",
            "get secrets",
            "get configmaps",
            "list endpoints",
            "update leases.coordination.k8s.io/another",
            "delete leases.coordination.k8s.io/roundhouse-scaler-replica",
            "delete events.events.k8s.io",
            "list events.events.k8s.io --all-namespaces",
            "create horizontalpodautoscalers.autoscaling",
            "delete horizontalpodautoscalers.autoscaling",
            "list nodes",
            "list pods --all-namespaces",
        ],
    ),
    (
        "replica",
        false,
        &[
            "list pods",
            "get pods",
            "list endpoints",
            "list endpointslices.discovery.k8s.io",
            "get secrets",
            "list deployments.apps",
            "patch deployments.apps/replica --subresource=scale",
            "create events.events.k8s.io",
            "get leases.coordination.k8s.io",
            "list nodes",
        ],
    ),
];

/// Asks the API server whether each ServiceAccount may do each action, and compares the answers with [`PRIVILEGES`].
pub(super) async fn check(kubectl: &Kubectl) -> Result<String> {
    let mut wrong = Vec::new();
    let (mut allowed, mut refused) = (0, 0);
    for (account, expected, actions) in PRIVILEGES {
        for action in *actions {
            let is_allowed = kubectl.can_i(account, action).await?;
            if is_allowed != *expected {
                wrong.push(format!("{account} {} {action}", if is_allowed { "may" } else { "may not" }));
            }
            if is_allowed { allowed += 1 } else { refused += 1 }
        }
    }
    ensure!(wrong.is_empty(), "the privileges differ from the expected ones: {}", wrong.join("; "));
    Ok(format!("{allowed} actions allowed, {refused} refused"))
}

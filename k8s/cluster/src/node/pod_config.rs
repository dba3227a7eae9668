//! Makes of a pod's specification what the node needs to run its containers. Pure.

use super::container_config::ContainerConfig;
use super::volume::{self, Volumes};
use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use std::time::Duration;

/// The default of `terminationGracePeriodSeconds`, by the documentation of PodSpec.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// What the node needs to run a pod.
#[derive(Debug, PartialEq)]
pub(super) struct PodConfig {
    /// The init containers, in the order in which they run.
    pub init: Vec<ContainerConfig>,
    /// The container that runs after the init containers.
    pub main: ContainerConfig,
    /// The volumes by name.
    pub volumes: Volumes,
    /// The group of the files and folders in volumes that the node makes; `None` for root's group.
    pub fs_group: Option<u32>,
    /// The name of the ServiceAccount whose tokens the pod gets.
    pub service_account: String,
    /// The time between SIGTERM and SIGKILL.
    pub grace: Duration,
}

impl PodConfig {
    /// The configuration of `pod`.
    ///
    /// # Errors
    /// If the specification needs a feature that this node does not have, is invalid, or has a container run as root
    /// although `runAsNonRoot` is set. The message names the field.
    pub(super) fn new(pod: &Pod) -> Result<Self> {
        let spec = pod.spec.as_ref().context("the pod has no spec")?;
        let [container] = &spec.containers[..] else {
            bail!("spec.containers has {} entries, but this node runs pods of one container", spec.containers.len())
        };
        let volumes = volume::volumes(spec)?;
        let init = spec.init_containers.iter().flatten();
        let init = init.map(|container| {
            let config = init_container(spec, container, &volumes);
            config.with_context(|| format!("initContainers has {}", container.name))
        });
        let fs_group = spec.security_context.as_ref().and_then(|security| security.fs_group);
        Ok(Self {
            init: init.collect::<Result<_>>()?,
            main: ContainerConfig::new(spec, container, &volumes)?,
            fs_group: fs_group.map(|group| u32::try_from(group).context("fsGroup is negative")).transpose()?,
            service_account: spec.service_account_name.clone().unwrap_or_else(|| "default".into()),
            grace: spec
                .termination_grace_period_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(DEFAULT_GRACE, Duration::from_secs),
            volumes,
        })
    }
}

fn init_container(spec: &PodSpec, container: &Container, volumes: &Volumes) -> Result<ContainerConfig> {
    let policy = container.restart_policy.as_deref();
    ensure!(policy.is_none(), "restartPolicy is set, but this node runs no init containers beside the container");
    ContainerConfig::new(spec, container, volumes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The configuration of a pod with one container. `container` and `pod` have further fields.
    pub(in crate::node) fn config(container: Value, pod: Value) -> Result<PodConfig> {
        let mut first = json!({"name": "replica", "image": "roundhouse/replica"});
        first.as_object_mut().expect("an object").extend(container.as_object().expect("an object").clone());
        let mut spec = json!({"containers": [first]});
        spec.as_object_mut().expect("an object").extend(pod.as_object().expect("an object").clone());
        let pod = json!({"metadata": {"name": "a-1", "namespace": "shop"}, "spec": spec});
        PodConfig::new(&serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn init_containers_have_their_own_settings_and_the_volumes_of_the_pod() -> Result<()> {
        let init = json!([
            {"name": "fetch", "image": "a/fetch:1", "args": ["--all"], "securityContext": {"runAsUser": 7},
                "volumeMounts": [{"name": "model", "mountPath": "/model"}]},
            {"name": "check", "image": "check"}]);
        let pod = json!({"initContainers": init, "volumes": [{"name": "model", "emptyDir": {}}],
            "securityContext": {"runAsUser": 5, "fsGroup": 9}, "serviceAccountName": "shopper"});
        let found = config(json!({"volumeMounts": [{"name": "model", "mountPath": "/m", "readOnly": true}]}), pod)?;
        let [fetch, check] = &found.init[..] else { panic!("{:?}", found.init) };
        assert_eq!((fetch.image.as_str(), fetch.user, &fetch.arguments[..]), ("fetch", 7, &["--all".to_owned()][..]));
        assert_eq!((fetch.mounts[0].path.as_str(), fetch.mounts[0].is_read_only), ("/model", false));
        assert_eq!((check.image.as_str(), check.user, check.mounts.len()), ("check", 5, 0));
        assert_eq!((found.main.mounts[0].path.as_str(), found.main.mounts[0].is_read_only), ("/m", true));
        assert_eq!((found.fs_group, found.service_account.as_str()), (Some(9), "shopper"));
        Ok(())
    }

    #[test]
    fn features_that_this_node_does_not_have_are_refused() {
        let container = json!({"name": "b", "image": "b"});
        let init = |own: Value| {
            let mut init = container.clone();
            init.as_object_mut().expect("an object").extend(own.as_object().expect("an object").clone());
            json!({"initContainers": [init]})
        };
        for (own, pod, word) in [
            (json!({"command": ["sh"]}), json!({}), "command"),
            (json!({"volumeMounts": [{"name": "a", "mountPath": "/data"}]}), json!({}), "/data"),
            (json!({}), json!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}), "volume a"),
            (json!({"readinessProbe": {"exec": {}}}), json!({}), "HTTP only"),
            (json!({"readinessProbe": {"httpGet": {"port": "http"}}}), json!({}), "\"http\""),
            (json!({}), init(json!({"restartPolicy": "Always"})), "initContainers has b: restartPolicy"),
            (json!({}), init(json!({"command": ["sh"]})), "initContainers has b: command"),
            (json!({}), json!({"containers": [container, container]}), "2 entries"),
        ] {
            let error = format!("{:#}", config(own, pod).expect_err(word));
            assert!(error.contains(word), "{error}");
        }
    }
}

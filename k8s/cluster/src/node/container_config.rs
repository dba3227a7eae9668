//! Makes of a container's specification what the node needs to run it. Pure.

use super::environment::{Environment, Variables, expand};
use super::field::PodFields;
use super::object::Objects;
use super::probe::{ContainerProbes, HttpProbe};
use super::volume::{self, Mount, Volumes};
use anyhow::{Context, Result, ensure};
use bytesize::ByteSize;
use cgroup::ResourceLimits;
use k8s_openapi::api::core::v1::{Container, PodSpec, Probe as ProbeSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kubernetes::quantity;
use std::time::Duration;

/// What the node needs to run a container.
#[derive(Debug, PartialEq)]
pub(super) struct ContainerConfig {
    /// The container's name.
    pub name: String,
    /// The name of the container image in the node's store.
    pub image: String,
    /// The program's arguments. They may have references to variables, such as `$(POD)`.
    pub arguments: Vec<String>,
    /// The sources of the environment variables.
    pub environment: Environment,
    /// The id of the user as whom the process runs.
    pub user: i64,
    /// The id of the group as which the process runs.
    pub group: i64,
    /// The ids of further groups of the process, such as that of the pod's volumes.
    pub supplemental_groups: Vec<i64>,
    /// Whether the root file system is read-only.
    pub is_read_only: bool,
    /// The mounted volumes. A mount comes after those whose paths contain its path.
    pub mounts: Vec<Mount>,
    /// The limits of memory, and of processor time in cores of the node.
    pub limits: ResourceLimits,
    /// The container's probes.
    pub probes: ContainerProbes,
}

/// The arguments and environment variables of a process. Their references are replaced by values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProcessInput {
    /// The arguments.
    pub arguments: Vec<String>,
    /// The values of the environment variables by name.
    pub variables: Variables,
}

impl ContainerConfig {
    /// The configuration of `container`, which is a container of a pod with the specification `spec`.
    ///
    /// # Errors
    /// If the specification needs a feature that this node does not have, is invalid, or has the container run as root
    /// although `runAsNonRoot` is set. The message names the field.
    pub(super) fn new(spec: &PodSpec, container: &Container, volumes: &Volumes) -> Result<Self> {
        ensure!(container.command.is_none(), "command is set, but this node runs only the program of the image");
        let image = container.image.as_deref().context("the container has no image")?;
        let (user, group) = identity(spec, container)?;
        let security = container.security_context.as_ref();
        Ok(Self {
            name: container.name.clone(),
            image: image_name(image).to_owned(),
            arguments: container.args.clone().unwrap_or_default(),
            environment: Environment::new(container)?,
            user,
            group,
            supplemental_groups: supplemental_groups(spec),
            is_read_only: security.and_then(|security| security.read_only_root_filesystem).unwrap_or(false),
            mounts: volume::mounts(container, volumes)?,
            limits: limits(container)?,
            probes: ContainerProbes {
                startup: probe(container, container.startup_probe.as_ref())?,
                readiness: probe(container, container.readiness_probe.as_ref())?,
                liveness: probe(container, container.liveness_probe.as_ref())?,
            },
        })
    }

    /// The arguments and environment variables, with the values for their references. `objects` has the ConfigMaps and
    /// Secrets of the environment, as far as they exist.
    ///
    /// # Errors
    /// If an object or a key is missing, or a variable refers to a field that this node does not know.
    pub(super) fn resolve(&self, fields: PodFields<'_>, objects: &Objects) -> Result<ProcessInput> {
        let variables = self.environment.resolve(fields, objects)?;
        let arguments = self.arguments.iter().map(|argument| expand(argument, &variables)).collect();
        Ok(ProcessInput { arguments, variables })
    }
}

/// The name of an image in the node's store: NAME of `registry/path/NAME:tag@digest`.
pub(super) fn image_name(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split([':', '@']).next().unwrap_or(last)
}

/// The ids of user and group: the container's, otherwise the pod's, otherwise those of root.
fn identity(spec: &PodSpec, container: &Container) -> Result<(i64, i64)> {
    let (pod, own) = (spec.security_context.as_ref(), container.security_context.as_ref());
    let user = own.and_then(|own| own.run_as_user).or(pod.and_then(|pod| pod.run_as_user)).unwrap_or(0);
    let group = own.and_then(|own| own.run_as_group).or(pod.and_then(|pod| pod.run_as_group)).unwrap_or(0);
    let non_root = own.and_then(|own| own.run_as_non_root).or(pod.and_then(|pod| pod.run_as_non_root));
    ensure!(user != 0 || non_root != Some(true), "runAsNonRoot is set, but runAsUser is 0 (root) or not set");
    Ok((user, group))
}

/// The groups of the process besides its first one. With the group of the volumes, the process may read their files.
fn supplemental_groups(spec: &PodSpec) -> Vec<i64> {
    let Some(security) = &spec.security_context else { return Vec::new() };
    security.supplemental_groups.iter().flatten().copied().chain(security.fs_group).collect()
}

fn limits(container: &Container) -> Result<ResourceLimits> {
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let limit = |name: &str| limits.and_then(|limits| limits.get(name));
    Ok(ResourceLimits { cores: limit("cpu").map(cores).transpose()?, memory: limit("memory").map(memory).transpose()? })
}

fn cores(quantity: &Quantity) -> Result<f64> {
    let malformed = || format!("resources.limits.cpu {:?} is no quantity of processors, such as 500m", quantity.0);
    quantity::cores(&quantity.0).with_context(malformed)
}

/// The bytes of a quantity of memory. Kubernetes writes `1Gi` and `1G`, ByteSize `1GiB` and `1GB`.
fn memory(quantity: &Quantity) -> Result<ByteSize> {
    let text = &quantity.0;
    let unit = if text.ends_with(|last: char| last.is_ascii_digit()) { "" } else { "B" };
    let size = format!("{text}{unit}").parse();
    size.map_err(|_| anyhow::anyhow!("resources.limits.memory {text:?} is no quantity of bytes, such as 1Gi"))
}

fn probe(container: &Container, spec: Option<&ProbeSpec>) -> Result<Option<HttpProbe>> {
    let Some(spec) = spec else { return Ok(None) };
    let get = spec.http_get.as_ref().context("a probe has no httpGet, but this node probes by HTTP only")?;
    // The defaults are those of the documentation of Probe.
    let count = |value: Option<i32>, default: u32| value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default);
    let seconds = |value, default| Duration::from_secs(count(value, default).into());
    Ok(Some(HttpProbe {
        path: get.path.clone().unwrap_or_else(|| "/".into()),
        port: port(container, &get.port)?,
        delay: seconds(spec.initial_delay_seconds, 0),
        period: seconds(spec.period_seconds, 10),
        timeout: seconds(spec.timeout_seconds, 1),
        failure_threshold: count(spec.failure_threshold, 3),
        success_threshold: count(spec.success_threshold, 1),
    }))
}

/// The number of a port that a probe gives by number or by name.
fn port(container: &Container, port: &IntOrString) -> Result<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let port = ports.find(|port| port.name.as_deref() == Some(name));
            port.with_context(|| format!("a probe has the port {name:?}, which is not in the container's ports"))?
                .container_port
        }
    };
    u16::try_from(number).with_context(|| format!("a probe has the port {number}, which is not from 0 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::pod_config::tests::config as pod_config;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn config(container: serde_json::Value, pod: serde_json::Value) -> Result<ContainerConfig> {
        pod_config(container, pod).map(|config| config.main)
    }

    #[test]
    fn the_image_is_the_last_part_of_its_reference_without_tag_and_digest() {
        for (image, expected) in [
            ("replica", "replica"),
            ("roundhouse.invalid/replica:0.1.0", "replica"),
            ("registry.example:5000/a/replica@sha256:00", "replica"),
            ("registry.example:5000/a/replica:1@sha256:00", "replica"),
        ] {
            assert_eq!(image_name(image), expected);
        }
    }

    #[test]
    fn limits_are_read_with_their_units() {
        let limits = |cpu: &str, memory: &str| {
            config(json!({"resources": {"limits": {"cpu": cpu, "memory": memory}}}), json!({}))
        };
        let found = limits("1500m", "1Gi").expect("good").limits;
        assert_eq!((found.cores, found.memory), (Some(1.5), Some(ByteSize::gib(1))));
        assert_eq!(limits("1", "1000").expect("good").limits.memory, Some(ByteSize::b(1000)));
        assert_eq!(limits("1", "2M").expect("good").limits.memory, Some(ByteSize::mb(2)));
        assert!(limits("lots", "1Gi").is_err() && limits("1", "lots").is_err());
        assert_eq!(config(json!({}), json!({})).expect("good").limits, ResourceLimits::default());
    }

    #[test]
    fn a_container_with_run_as_non_root_and_without_a_user_is_refused() {
        let both = |pod, own| config(json!({"securityContext": own}), json!({"securityContext": pod}));
        let found = both(json!({"runAsNonRoot": true, "runAsUser": 5, "runAsGroup": 6}), json!({})).expect("good");
        assert_eq!((found.user, found.group), (5, 6));
        let found =
            both(json!({"runAsUser": 5}), json!({"runAsUser": 7, "readOnlyRootFilesystem": true})).expect("good");
        assert_eq!((found.user, found.is_read_only), (7, true));
        let error = both(json!({"runAsNonRoot": true}), json!({})).expect_err("root");
        assert!(error.to_string().contains("runAsNonRoot"), "{error}");
    }

    #[test]
    fn the_process_has_the_groups_of_the_pod_and_of_its_volumes() -> Result<()> {
        let found = config(json!({}), json!({"securityContext": {"supplementalGroups": [3, 4], "fsGroup": 5}}))?;
        assert_eq!(found.supplemental_groups, [3, 4, 5]);
        Ok(())
    }

    #[test]
    fn fields_of_the_pod_become_variables() {
        let variable = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let text = json!({"name": "AT", "value": "$(POD)!"});
        let environment = [variable("POD", "metadata.name"), text, variable("IP", "status.podIP")];
        let container = json!({"env": environment, "args": ["--at=$(AT)", "$(NODE)"]});
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "a-1"}, "spec": {"containers": []}})).expect("a pod");
        let config = config(container, json!({})).expect("good");
        let fields = PodFields { pod: &pod, address: [10, 0, 0, 2].into(), node: [10, 0, 0, 1].into() };
        let input = config.resolve(fields, &Objects::new()).expect("good");
        assert_eq!(input.arguments, ["--at=a-1!", "$(NODE)"]);
        assert_eq!(input.variables["IP"], "10.0.0.2");
    }
}

//! Makes of a pod's specification what the node needs to run its container. Pure.

use super::probe::{ContainerProbes, HttpProbe};
use super::quantity;
use anyhow::{Context, Result, bail, ensure};
use bytesize::ByteSize;
use cgroup::ResourceLimits;
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, PodSpec, Probe as ProbeSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The folder in which a container finds the token of its ServiceAccount.
const TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The default of `terminationGracePeriodSeconds`, by the documentation of PodSpec.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// What the node needs to run the only container of a pod. The container image has a program of the workspace.
#[derive(Debug, PartialEq)]
pub(super) struct ContainerConfig {
    /// The name of the program in the container image.
    pub program: String,
    /// The program's arguments. They may have references to variables, such as `$(POD)`.
    pub arguments: Vec<String>,
    /// The names and values of environment variables, in the order of the specification. Values may have references to
    /// earlier variables.
    pub environment: Vec<(String, VariableSource)>,
    /// The id of the user as whom the process runs.
    pub user: i64,
    /// The id of the group as which the process runs.
    pub group: i64,
    /// Whether the root file system is read-only.
    pub is_read_only: bool,
    /// The name of the ServiceAccount whose token the container gets; `None` if it gets no token.
    pub service_account: Option<String>,
    /// The limits of memory, and of processor time in cores of the node.
    pub limits: ResourceLimits,
    /// The container's probes.
    pub probes: ContainerProbes,
    /// The time between SIGTERM and SIGKILL.
    pub grace: Duration,
}

/// The source of an environment variable's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum VariableSource {
    /// A text, which may have references to other variables.
    Text(String),
    /// The path of a field of the pod, such as `metadata.name`.
    Field(String),
}

/// The arguments and environment variables of a process. Their references are replaced by values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProcessInput {
    /// The arguments.
    pub arguments: Vec<String>,
    /// The names and values of the environment variables.
    pub variables: Vec<(String, String)>,
}

impl ContainerConfig {
    /// The configuration of the container of `pod`.
    ///
    /// # Errors
    /// If the specification needs a feature that this node does not have, is invalid, or has the container run as root
    /// although `runAsNonRoot` is set. The message names the field.
    pub(super) fn new(pod: &Pod) -> Result<Self> {
        let spec = pod.spec.as_ref().context("the pod has no spec")?;
        let [container] = &spec.containers[..] else {
            bail!("spec.containers has {} entries, but this node runs pods of one container", spec.containers.len())
        };
        let has_init = !spec.init_containers.as_deref().unwrap_or_default().is_empty();
        ensure!(!has_init, "spec.initContainers is set, but this node runs no init containers");
        ensure!(container.command.is_none(), "command is set, but this node runs only the program of the image");
        let image = container.image.as_deref().context("the container has no image")?;
        let (user, group) = identity(spec, container)?;
        let security = container.security_context.as_ref();
        Ok(Self {
            program: program(image).to_owned(),
            arguments: container.args.clone().unwrap_or_default(),
            environment: environment(container)?,
            user,
            group,
            is_read_only: security.and_then(|security| security.read_only_root_filesystem).unwrap_or(false),
            service_account: service_account(spec, container)?,
            limits: limits(container)?,
            probes: ContainerProbes {
                startup: probe(container, container.startup_probe.as_ref())?,
                readiness: probe(container, container.readiness_probe.as_ref())?,
                liveness: probe(container, container.liveness_probe.as_ref())?,
            },
            grace: spec
                .termination_grace_period_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(DEFAULT_GRACE, Duration::from_secs),
        })
    }

    /// The arguments and environment variables, with the values for their references. `address` is the address of the
    /// pod, `node` that of the node.
    ///
    /// # Errors
    /// If a variable refers to a field that this node does not know.
    pub(super) fn resolve(&self, pod: &Pod, address: Ipv4Addr, node: Ipv4Addr) -> Result<ProcessInput> {
        let mut variables = Vec::new();
        for (name, source) in &self.environment {
            let value = match source {
                VariableSource::Text(text) => expand(text, &variables),
                VariableSource::Field(path) => field(pod, path, address, node)?,
            };
            variables.push((name.clone(), value));
        }
        let arguments = self.arguments.iter().map(|argument| expand(argument, &variables)).collect();
        Ok(ProcessInput { arguments, variables })
    }
}

/// The name of the program in an image: NAME of `registry/path/NAME:tag@digest`.
fn program(image: &str) -> &str {
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

/// The name of the ServiceAccount whose token is mounted; `None` if none is mounted.
///
/// # Errors
/// If another volume is mounted.
fn service_account(spec: &PodSpec, container: &Container) -> Result<Option<String>> {
    let mut account = None;
    for mount in container.volume_mounts.iter().flatten() {
        let path = &mount.mount_path;
        ensure!(path == TOKEN_FOLDER, "volumeMounts has {path}, but this node mounts only {TOKEN_FOLDER}");
        account = Some(spec.service_account_name.clone().unwrap_or_else(|| "default".into()));
    }
    Ok(account)
}

fn environment(container: &Container) -> Result<Vec<(String, VariableSource)>> {
    ensure!(container.env_from.is_none(), "envFrom is set, but this node reads no ConfigMaps or Secrets");
    let variables = container.env.iter().flatten();
    variables.map(|variable| Ok((variable.name.clone(), variable_source(variable)?))).collect()
}

fn variable_source(variable: &EnvVar) -> Result<VariableSource> {
    let Some(source) = &variable.value_from else {
        return Ok(VariableSource::Text(variable.value.clone().unwrap_or_default()));
    };
    let field = source.field_ref.as_ref();
    let unknown = || format!("env {}: this node knows no source of a value but fieldRef", variable.name);
    let field = field.with_context(unknown)?;
    Ok(VariableSource::Field(field.field_path.clone()))
}

/// The value of the field `path` of a pod.
fn field(pod: &Pod, path: &str, address: Ipv4Addr, node: Ipv4Addr) -> Result<String> {
    Ok(match path {
        "metadata.name" => pod.metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => pod.metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => pod.metadata.uid.clone().unwrap_or_default(),
        "status.podIP" => address.to_string(),
        "status.hostIP" => node.to_string(),
        "spec.nodeName" => pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        _ => bail!("fieldPath {path} is not known to this node"),
    })
}

/// Replaces `$(NAME)` by the variable's value, and `$$` by `$`. A reference to an unknown variable stays unchanged, as
/// the documentation of Container says.
fn expand(text: &str, variables: &[(String, String)]) -> String {
    let (mut expanded, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let reference = after.strip_prefix('(').and_then(|reference| reference.split_once(')'));
        let known = reference.and_then(|(name, after)| {
            let (_, value) = variables.iter().rev().find(|(known, _)| known == name)?;
            Some((value, after))
        });
        if let Some((value, after)) = known {
            expanded.push_str(value);
            rest = after;
        } else {
            expanded.push('$');
            rest = after.strip_prefix('$').unwrap_or(after);
        }
    }
    expanded + rest
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
    use serde_json::json;

    fn config(container: serde_json::Value, pod: serde_json::Value) -> Result<ContainerConfig> {
        let mut first = json!({"name": "replica", "image": "roundhouse.invalid/replica:0.1.0"});
        first.as_object_mut().expect("an object").extend(container.as_object().expect("an object").clone());
        let mut spec = json!({"containers": [first]});
        spec.as_object_mut().expect("an object").extend(pod.as_object().expect("an object").clone());
        let pod = json!({"metadata": {"name": "a-1", "namespace": "shop"}, "spec": spec});
        ContainerConfig::new(&serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn the_program_is_the_last_part_of_the_image_without_tag_and_digest() {
        for (image, expected) in [
            ("replica", "replica"),
            ("roundhouse.invalid/replica:0.1.0", "replica"),
            ("registry.example:5000/a/replica@sha256:00", "replica"),
            ("registry.example:5000/a/replica:1@sha256:00", "replica"),
        ] {
            assert_eq!(program(image), expected);
        }
    }

    #[test]
    fn references_to_known_variables_are_replaced() {
        let variables = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())];
        for (text, expected) in
            [("--a=$(A)/$(B):c", "--a=1/2:c"), ("$(C) $A $( $", "$(C) $A $( $"), ("$$(A) $$", "$(A) $"), ("", "")]
        {
            assert_eq!(expand(text, &variables), expected);
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
    fn features_that_this_node_does_not_have_are_refused() {
        let container = json!({"name": "b", "image": "b"});
        for (own, pod, word) in [
            (json!({"command": ["sh"]}), json!({}), "command"),
            (json!({"volumeMounts": [{"name": "a", "mountPath": "/data"}]}), json!({}), "/data"),
            (json!({"envFrom": []}), json!({}), "ConfigMaps"),
            (
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"key": "a", "name": "a"}}}]}),
                json!({}),
                "env A",
            ),
            (json!({"readinessProbe": {"exec": {}}}), json!({}), "HTTP only"),
            (json!({"readinessProbe": {"httpGet": {"port": "http"}}}), json!({}), "\"http\""),
            (json!({}), json!({"initContainers": [container]}), "initContainers"),
            (json!({}), json!({"containers": [container, container]}), "2 entries"),
        ] {
            let error = config(own, pod).expect_err(word);
            assert!(error.to_string().contains(word), "{error}");
        }
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
        let input = config.resolve(&pod, [10, 0, 0, 2].into(), [10, 0, 0, 1].into()).expect("good");
        assert_eq!(input.arguments, ["--at=a-1!", "$(NODE)"]);
        assert_eq!(input.variables.last(), Some(&("IP".to_owned(), "10.0.0.2".to_owned())));
    }
}

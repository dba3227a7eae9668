//! PURE: what a pod's specification asks of the node.

use super::probe::{Probe, Probes};
use super::quantity;
use anyhow::{Context, Result, bail, ensure};
use bytesize::ByteSize;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use scaler::target::cgroup::Limits;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Where a token is mounted.
const SECRETS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Grace that a pod has unless it says otherwise (PodSpec's own documentation).
const GRACE: Duration = Duration::from_secs(30);

/// One pod, as far as this node can run it: one container, whose image is a program of the workspace.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// The container.
    pub name: String,
    /// As it is written.
    pub image: String,
    /// The program that the image holds.
    pub program: String,
    /// Its arguments, before variables are put in.
    pub arguments: Vec<String>,
    /// Its variables, in order, before others are put in.
    pub environment: Vec<(String, Value)>,
    /// Who it runs as.
    pub user: i64,
    /// And with which group.
    pub group: i64,
    /// Whether its file system cannot be written to.
    pub is_read_only: bool,
    /// Whose token it gets, if any.
    pub account: Option<String>,
    /// Of processor time, in the node's cores, and of memory.
    pub limits: Limits,
    /// What tells how it is.
    pub probes: Probes,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
}

/// Names and values, in order.
pub(super) type Variables = Vec<(String, String)>;

/// Where a variable's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// The specification.
    Literal(String),
    /// The pod, by the path of the field.
    Field(String),
}

impl Plan {
    /// What this pod asks for.
    ///
    /// # Errors
    /// When it asks for something that this node does not do, or may not: it is said what.
    pub(super) fn of(pod: &Pod) -> Result<Self> {
        let spec = pod.spec.as_ref().context("it has no specification")?;
        let [container] = &spec.containers[..] else { bail!("this node runs pods of one container only") };
        ensure!(spec.init_containers.as_deref().unwrap_or_default().is_empty(), "this node runs no init containers");
        ensure!(container.command.is_none(), "this node runs an image's own program only, not a command");
        let image = container.image.clone().context("it has no image")?;
        let (user, group) = identity(spec, container)?;
        let security = container.security_context.as_ref();
        let resources = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let limit = |name: &str| resources.and_then(|limits| limits.get(name));
        Ok(Self {
            name: container.name.clone(),
            program: program(&image).to_owned(),
            image,
            arguments: container.args.clone().unwrap_or_default(),
            environment: environment(container)?,
            user,
            group,
            is_read_only: security.and_then(|security| security.read_only_root_filesystem).unwrap_or(false),
            account: account(spec, container)?,
            limits: Limits {
                cores: limit("cpu").map(cores).transpose()?,
                memory: limit("memory").map(memory).transpose()?,
            },
            probes: Probes {
                startup: probe(container, container.startup_probe.as_ref())?,
                readiness: probe(container, container.readiness_probe.as_ref())?,
                liveness: probe(container, container.liveness_probe.as_ref())?,
            },
            grace: spec
                .termination_grace_period_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(GRACE, Duration::from_secs),
        })
    }

    /// Its arguments and its variables as the process gets them.
    ///
    /// # Errors
    /// When a field is one that this node does not know.
    pub(super) fn resolve(&self, pod: &Pod, address: Ipv4Addr, node: Ipv4Addr) -> Result<(Vec<String>, Variables)> {
        let mut variables = Variables::new();
        for (name, value) in &self.environment {
            let value = match value {
                Value::Literal(text) => expand(text, &variables),
                Value::Field(path) => field(pod, path, address, node)?,
            };
            variables.push((name.clone(), value));
        }
        let arguments = self.arguments.iter().map(|argument| expand(argument, &variables)).collect();
        Ok((arguments, variables))
    }
}

/// `registry/path/NAME:tag@digest` → `NAME`.
fn program(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split([':', '@']).next().unwrap_or(last)
}

/// The container's own wins. Root only if nothing forbids it.
fn identity(spec: &PodSpec, container: &Container) -> Result<(i64, i64)> {
    let (pod, own) = (spec.security_context.as_ref(), container.security_context.as_ref());
    let user = own.and_then(|own| own.run_as_user).or(pod.and_then(|pod| pod.run_as_user)).unwrap_or(0);
    let group = own.and_then(|own| own.run_as_group).or(pod.and_then(|pod| pod.run_as_group)).unwrap_or(0);
    let must_not = own.and_then(|own| own.run_as_non_root).or(pod.and_then(|pod| pod.run_as_non_root));
    ensure!(user != 0 || must_not != Some(true), "runAsNonRoot is set, and the user is root");
    Ok((user, group))
}

/// Whose token is mounted; other mounts are not done.
fn account(spec: &PodSpec, container: &Container) -> Result<Option<String>> {
    let mut account = None;
    for mount in container.volume_mounts.iter().flatten() {
        ensure!(mount.mount_path == SECRETS, "this node mounts nothing at {}", mount.mount_path);
        account = Some(spec.service_account_name.clone().unwrap_or_else(|| "default".into()));
    }
    Ok(account)
}

fn environment(container: &Container) -> Result<Vec<(String, Value)>> {
    ensure!(container.env_from.is_none(), "this node has no variables from ConfigMaps or Secrets");
    let variables = container.env.iter().flatten().map(|variable| {
        let value = match &variable.value_from {
            None => Value::Literal(variable.value.clone().unwrap_or_default()),
            Some(source) => {
                let field = source.field_ref.as_ref();
                let field =
                    field.with_context(|| format!("{} comes from where this node cannot look", variable.name))?;
                Value::Field(field.field_path.clone())
            }
        };
        Ok((variable.name.clone(), value))
    });
    variables.collect()
}

fn field(pod: &Pod, path: &str, address: Ipv4Addr, node: Ipv4Addr) -> Result<String> {
    Ok(match path {
        "metadata.name" => pod.metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => pod.metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => pod.metadata.uid.clone().unwrap_or_default(),
        "status.podIP" => address.to_string(),
        "status.hostIP" => node.to_string(),
        "spec.nodeName" => pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        _ => bail!("this node does not know the field {path}"),
    })
}

/// `$(NAME)` → its value, `$$` → `$`; a name that is not known stays as it is (Container's own documentation).
fn expand(text: &str, variables: &[(String, String)]) -> String {
    let (mut expanded, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name = after.strip_prefix('(').and_then(|named| named.split_once(')'));
        let value = name.and_then(|(name, rest)| {
            let (_, value) = variables.iter().rev().find(|(known, _)| known == name)?;
            Some((value, rest))
        });
        if let Some((value, left)) = value {
            expanded.push_str(value);
            rest = left;
        } else {
            expanded.push('$');
            rest = after.strip_prefix('$').unwrap_or(after);
        }
    }
    expanded + rest
}

fn cores(quantity: &Quantity) -> Result<f64> {
    quantity::cores(&quantity.0).with_context(|| format!("{:?} is no quantity of processors", quantity.0))
}

/// `1Gi` and `1G` are what ByteSize calls `1GiB` and `1GB`.
fn memory(quantity: &Quantity) -> Result<ByteSize> {
    let text = &quantity.0;
    let unit = if text.ends_with(|last: char| last.is_ascii_digit()) { "" } else { "B" };
    format!("{text}{unit}").parse().map_err(|_| anyhow::anyhow!("{text:?} is no quantity of memory"))
}

fn probe(container: &Container, probe: Option<&k8s_openapi::api::core::v1::Probe>) -> Result<Option<Probe>> {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    let Some(probe) = probe else { return Ok(None) };
    let get = probe.http_get.as_ref().context("this node probes by HTTP only")?;
    let port = match &get.port {
        IntOrString::Int(port) => *port,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let port = ports.find(|port| port.name.as_deref() == Some(name));
            port.with_context(|| format!("a probe names port {name:?}, which the container has not"))?.container_port
        }
    };
    // Values that are not given are those of Probe's own documentation.
    let count = |value: Option<i32>, default: u32| value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default);
    let seconds = |value, default| Duration::from_secs(count(value, default).into());
    Ok(Some(Probe {
        path: get.path.clone().unwrap_or_else(|| "/".into()),
        port: u16::try_from(port).with_context(|| format!("{port} is no port"))?,
        delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10),
        timeout: seconds(probe.timeout_seconds, 1),
        failures: count(probe.failure_threshold, 3),
        successes: count(probe.success_threshold, 1),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(container: serde_json::Value, pod: serde_json::Value) -> Result<Plan> {
        let mut first = json!({"name": "replica", "image": "roundhouse/replica"});
        first.as_object_mut().expect("an object").extend(container.as_object().expect("an object").clone());
        let mut spec = json!({"containers": [first]});
        spec.as_object_mut().expect("an object").extend(pod.as_object().expect("an object").clone());
        Plan::of(
            &serde_json::from_value(json!({"metadata": {"name": "a-1", "namespace": "shop"}, "spec": spec}))
                .expect("a pod"),
        )
    }

    #[test]
    fn an_image_is_a_program() {
        for (image, expected) in [
            ("replica", "replica"),
            ("roundhouse/replica:0.1.0", "replica"),
            ("registry.example:5000/a/replica@sha256:00", "replica"),
            ("registry.example:5000/a/replica:1@sha256:00", "replica"),
        ] {
            assert_eq!(program(image), expected);
        }
    }

    #[test]
    fn variables_are_put_in_where_they_are_known() {
        let variables = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())];
        for (text, expected) in
            [("--a=$(A)/$(B):c", "--a=1/2:c"), ("$(C) $A $( $", "$(C) $A $( $"), ("$$(A) $$", "$(A) $"), ("", "")]
        {
            assert_eq!(expand(text, &variables), expected);
        }
    }

    #[test]
    fn limits_are_read_with_their_units() {
        let limits =
            |cpu: &str, memory: &str| plan(json!({"resources": {"limits": {"cpu": cpu, "memory": memory}}}), json!({}));
        let found = limits("1500m", "1Gi").expect("good").limits;
        assert_eq!((found.cores, found.memory), (Some(1.5), Some(ByteSize::gib(1))));
        assert_eq!(limits("1", "1000").expect("good").limits.memory, Some(ByteSize::b(1000)));
        assert_eq!(limits("1", "2M").expect("good").limits.memory, Some(ByteSize::mb(2)));
        assert!(limits("lots", "1Gi").is_err() && limits("1", "lots").is_err());
        assert_eq!(plan(json!({}), json!({})).expect("good").limits, Limits::default());
    }

    #[test]
    fn who_may_not_be_root_is_not() {
        let both = |pod, own| plan(json!({"securityContext": own}), json!({"securityContext": pod}));
        let found = both(json!({"runAsNonRoot": true, "runAsUser": 5, "runAsGroup": 6}), json!({})).expect("good");
        assert_eq!((found.user, found.group), (5, 6));
        let found =
            both(json!({"runAsUser": 5}), json!({"runAsUser": 7, "readOnlyRootFilesystem": true})).expect("good");
        assert_eq!((found.user, found.is_read_only), (7, true));
        let error = both(json!({"runAsNonRoot": true}), json!({})).expect_err("root");
        assert!(error.to_string().contains("runAsNonRoot"), "{error}");
    }

    #[test]
    fn what_this_node_does_not_do_is_refused() {
        let container = json!({"name": "b", "image": "b"});
        for (own, pod, word) in [
            (json!({"command": ["sh"]}), json!({}), "command"),
            (json!({"volumeMounts": [{"name": "a", "mountPath": "/data"}]}), json!({}), "/data"),
            (json!({"envFrom": []}), json!({}), "ConfigMaps"),
            (
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"key": "a", "name": "a"}}}]}),
                json!({}),
                "A comes",
            ),
            (json!({"readinessProbe": {"exec": {}}}), json!({}), "HTTP only"),
            (json!({"readinessProbe": {"httpGet": {"port": "http"}}}), json!({}), "\"http\""),
            (json!({}), json!({"initContainers": [container]}), "init"),
            (json!({}), json!({"containers": [container, container]}), "one container"),
        ] {
            let error = plan(own, pod).expect_err(word);
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn fields_of_the_pod_become_variables() {
        let variable = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let environment = json!([variable("POD", "metadata.name"), {"name": "AT", "value": "$(POD)!"}, variable("IP", "status.podIP")]);
        let container = json!({"env": environment, "args": ["--at=$(AT)", "$(NODE)"]});
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "a-1"}, "spec": {"containers": []}})).expect("a pod");
        let plan = plan(container, json!({})).expect("good");
        let (arguments, variables) = plan.resolve(&pod, [10, 0, 0, 2].into(), [10, 0, 0, 1].into()).expect("good");
        assert_eq!(arguments, ["--at=a-1!", "$(NODE)"]);
        assert_eq!(variables.last(), Some(&("IP".to_owned(), "10.0.0.2".to_owned())));
    }
}

//! The latest recommendation for a target, for another autoscaler that scales the target (`--advise`). Does not know how
//! that autoscaler reads it.

use kubernetes::name::ScalableName;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The period in which the HPA's controller reads its metrics (`--horizontal-pod-autoscaler-sync-period`). An HPA acts on
/// a recommendation after this time at most, also the HPA that KEDA creates.
pub const HPA_PERIOD: Duration = Duration::from_secs(15);

/// The age from which a recommendation is no longer told, or the age from which figures count as lost if that is higher: a
/// Prometheus may have new figures more rarely. An HPA without a metric leaves the replicas as they are.
pub const MAX_AGE: Duration = Duration::from_secs(60);

/// A number of replicas, with the time at which figures confirmed it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    /// The recommended number of replicas, within all limits of the target.
    pub replicas: usize,
    /// The time of the last decision that was made with new figures.
    pub confirmed: Instant,
    /// The age from which the recommendation is no longer told.
    pub max_age: Duration,
}

/// A target whose replicas another autoscaler sets.
#[derive(Debug, Clone)]
pub struct AdvisedTarget {
    /// The name of the object that is scaled.
    pub name: ScalableName,
    /// The latest advice; `None` before the first decision with figures.
    pub advice: watch::Receiver<Option<Advice>>,
}

/// The advised targets of a scaler. All clones share them.
#[derive(Debug, Clone, Default)]
pub struct AdvisedTargets(Arc<[AdvisedTarget]>);

/// The reason why there is no recommendation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAdvice {
    /// No target has this namespace and name.
    #[error("this scaler advises no {wanted}; it advises {advised}")]
    Unknown {
        /// The namespace that was asked for, and the target if it was named.
        wanted: String,
        /// The targets that the scaler advises.
        advised: String,
    },
    /// Several targets have this namespace, and none was named.
    #[error("this scaler advises {0}; name one of them as the target")]
    Ambiguous(String),
    /// No decision was made with figures lately.
    #[error("there is no recommendation for {0}: no recent figures; see the log of the scaler")]
    Stale(String),
}

impl AdvisedTarget {
    /// The latest advice.
    ///
    /// # Errors
    /// If the last figures are too old.
    pub fn latest(&self) -> Result<Advice, NoAdvice> {
        let advice = self.advice.borrow().filter(|advice| advice.confirmed.elapsed() < advice.max_age);
        advice.ok_or_else(|| NoAdvice::Stale(self.name.flag()))
    }

    /// The recommended number of replicas.
    ///
    /// # Errors
    /// If the last figures are too old.
    pub fn replicas(&self) -> Result<usize, NoAdvice> {
        self.latest().map(|advice| advice.replicas)
    }
}

impl FromIterator<AdvisedTarget> for AdvisedTargets {
    fn from_iter<I: IntoIterator<Item = AdvisedTarget>>(targets: I) -> Self {
        Self(targets.into_iter().collect())
    }
}

impl AdvisedTargets {
    /// The target in `namespace` whose value of `--target` or whose name is `target`. Without `target`, it is the only
    /// target in the namespace.
    ///
    /// # Errors
    /// If there is no such target, or there are several.
    pub fn find(&self, namespace: &str, target: Option<&str>) -> Result<&AdvisedTarget, NoAdvice> {
        let wanted =
            target.map_or_else(|| format!("target in {namespace}"), |target| format!("{target} in {namespace}"));
        self.only(wanted, |ScalableName { namespace: own, name, .. }, flag| {
            own == namespace && target.is_none_or(|target| target == name || target == flag)
        })
    }

    /// The only target for which `fits` is true. `fits` gets its name and its value of `--target`. `wanted` describes the
    /// target for messages.
    ///
    /// # Errors
    /// If there is no such target, or there are several.
    pub fn only(&self, wanted: String, fits: impl Fn(&ScalableName, &str) -> bool) -> Result<&AdvisedTarget, NoAdvice> {
        let found: Vec<_> = self.0.iter().filter(|advised| fits(&advised.name, &advised.name.flag())).collect();
        match found[..] {
            [only] => Ok(only),
            [] => Err(NoAdvice::Unknown { wanted, advised: names(self.0.iter()) }),
            _ => Err(NoAdvice::Ambiguous(names(found))),
        }
    }
}

/// The values of `--target` of these targets.
fn names<'a>(targets: impl IntoIterator<Item = &'a AdvisedTarget>) -> String {
    let names: Vec<String> = targets.into_iter().map(|target| target.name.flag()).collect();
    if names.is_empty() { "no target".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(flag: &str) -> (watch::Sender<Option<Advice>>, AdvisedTarget) {
        let (advise, advice) = watch::channel(None);
        (advise, AdvisedTarget { name: flag.parse().expect("a name"), advice })
    }

    #[tokio::test(start_paused = true)]
    async fn advice_is_told_until_it_is_too_old() {
        let (advise, target) = target("deployment:shop/replica");
        assert!(target.replicas().is_err());
        advise.send_replace(Some(Advice { replicas: 7, confirmed: Instant::now(), max_age: MAX_AGE }));
        tokio::time::advance(MAX_AGE - Duration::from_secs(1)).await;
        assert_eq!(target.replicas(), Ok(7));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(target.replicas(), Err(NoAdvice::Stale("deployment:shop/replica".into())));
    }

    #[test]
    fn a_target_is_found_by_its_namespace_and_name() {
        let names = ["deployment:shop/a", "statefulset:shop/a", "deployment:shop/b", "rollout:other/a"];
        let targets: AdvisedTargets = names.into_iter().map(|name| target(name).1).collect();
        let find = |namespace, target| targets.find(namespace, target).map(|found| found.name.flag());
        assert_eq!(find("other", None).as_deref(), Ok("rollout:other/a"));
        assert_eq!(find("shop", Some("b")).as_deref(), Ok("deployment:shop/b"));
        assert_eq!(find("shop", Some("statefulset:shop/a")).as_deref(), Ok("statefulset:shop/a"));
        for (namespace, target, words) in [
            ("shop", None, "deployment:shop/a, statefulset:shop/a, deployment:shop/b"),
            ("shop", Some("a"), "deployment:shop/a, statefulset:shop/a; name one"),
            ("shop", Some("rollout:other/a"), "no rollout:other/a in shop; it advises deployment:shop/a"),
            ("nowhere", None, "no target in nowhere"),
        ] {
            let error = find(namespace, target).expect_err("not found").to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}

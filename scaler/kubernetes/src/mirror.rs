//! A local copy of some objects, kept by a watch. It lists the objects again when its place in the history is lost; any other
//! failure ends it.

use crate::Failure;
use kube::runtime::reflector::{self, Lookup, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use tokio_stream::{Stream, StreamExt};

/// Seconds after which the API server ends a watch and another begins. A connection that has silently died is noticed by
/// then.
const WATCH_SECONDS: u32 = 60;

/// The copy.
pub struct Mirror<K: Lookup + Clone + 'static>
where
    K::DynamicType: Eq + Hash + Clone,
{
    events: Pin<Box<dyn Stream<Item = watcher::Result<Event<K>>> + Send>>,
    objects: Store<K>,
    is_listed: bool,
}

impl<K> Mirror<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// A copy of the objects that `config` selects; empty until [`Self::next`] was called.
    pub fn new(api: Api<K>, config: watcher::Config) -> Self {
        let (objects, writer) = reflector::store();
        let events = reflector::reflector(writer, watcher(api, config.timeout(WATCH_SECONDS)));
        Self { events: Box::pin(events), objects, is_listed: false }
    }

    /// Waits for one more event.
    ///
    /// # Errors
    /// When the watch failed. The copy stays as it was.
    ///
    /// # Cancel safety
    /// No event is lost.
    pub async fn next(&mut self) -> Result<(), Failure> {
        match self.events.next().await.expect("a watch has no end") {
            Ok(event) => self.is_listed |= matches!(event, Event::InitDone),
            Err(watcher::Error::WatchError(status)) if status.code == 410 => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// The objects; `None` until they were all listed once. While they are listed again, the last whole set.
    pub fn objects(&self) -> Option<Vec<Arc<K>>> {
        self.is_listed.then(|| self.objects.state())
    }
}

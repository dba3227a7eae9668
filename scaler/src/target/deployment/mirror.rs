//! A local copy of some objects, as the API server last told them. Lists again by itself when its place in the history
//! is lost; ends at any other failure.

use crate::cluster::Failure;
use kube::runtime::reflector::{self, Store, store::Writer};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use tokio_stream::{Stream, StreamExt};

/// Seconds after which the API server ends a watch and another begins. A connection that has silently died is found
/// out by then.
const WATCH_SECONDS: u32 = 60;

/// The copy.
pub struct Mirror<K>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    events: Pin<Box<dyn Stream<Item = watcher::Result<Event<K>>> + Send>>,
    objects: Store<K>,
    writer: Writer<K>,
    listed: bool,
}

impl<K> Mirror<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    /// Of what `config` selects.
    pub fn new(api: Api<K>, config: watcher::Config) -> Self {
        let (objects, writer) = reflector::store();
        Self { events: Box::pin(watcher(api, config.timeout(WATCH_SECONDS))), objects, writer, listed: false }
    }

    /// Waits for one more event.
    ///
    /// # Errors
    /// When the watch failed. The copy stays as it was.
    ///
    /// # Cancel safety
    /// No event is lost.
    pub async fn next(&mut self) -> Result<(), Failure> {
        match self.events.next().await.expect("a watch goes on for ever") {
            Ok(event) => {
                self.listed |= matches!(event, Event::InitDone);
                self.writer.apply_watcher_event(&event);
                Ok(())
            }
            Err(watcher::Error::WatchError(status)) if status.code == 410 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The objects; nothing until they were all listed once. While they are listed again, the last whole set.
    pub fn objects(&self) -> Option<Vec<Arc<K>>> {
        self.listed.then(|| self.objects.state())
    }
}

//! A local copy of some objects, which a watch keeps up to date. If the watch has fallen behind the history of the API
//! server, all objects are listed again. Any other failure ends the copy.

use crate::ApiError;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, Lookup, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use tokio_stream::{Stream, StreamExt};

/// Seconds after which the API server ends a watch and the copy begins another. Until then, a connection that has died
/// silently is not noticed.
pub const WATCH_SECONDS: u32 = 60;

/// A local copy of the objects of one kind that a watch selects.
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
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send,
{
    /// A copy of the objects that `config` selects. It is filled by calls of [`Self::next`].
    pub fn new(api: Api<K>, config: watcher::Config) -> Self
    where
        K::DynamicType: Default,
    {
        Self::of_type(api, config, K::DynamicType::default())
    }

    /// A copy of the objects that `config` selects, without the parts that `strip` removes from each of them. It is filled
    /// by calls of [`Self::next`].
    pub fn stripped(api: Api<K>, config: watcher::Config, strip: fn(&mut K)) -> Self
    where
        K::DynamicType: Default,
    {
        Self::with(api, config, K::DynamicType::default(), strip)
    }

    /// A copy of the objects of the type `type_` that `config` selects. It is filled by calls of [`Self::next`].
    pub fn of_type(api: Api<K>, config: watcher::Config, type_: K::DynamicType) -> Self {
        Self::with(api, config, type_, |_whole| {})
    }

    fn with(api: Api<K>, config: watcher::Config, type_: K::DynamicType, strip: fn(&mut K)) -> Self {
        let writer = Writer::new(type_);
        let objects = writer.as_reader();
        let events = watcher(api, config.timeout(WATCH_SECONDS)).modify(strip);
        let events = reflector::reflector(writer, events);
        Self { events: Box::pin(events), objects, is_listed: false }
    }

    /// Waits for the next event of the watch, and updates the copy.
    ///
    /// # Errors
    /// If the watch has failed. The copy stays as it was.
    ///
    /// # Cancel safety
    /// No event is lost.
    pub async fn next(&mut self) -> Result<(), ApiError> {
        match self.events.next().await.expect("a watch never ends") {
            Ok(event) => self.is_listed |= matches!(event, Event::InitDone),
            Err(watcher::Error::WatchError(status)) if status.code == 410 => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// All objects; `None` until they have been listed once. While they are listed again, the former set stays.
    pub fn objects(&self) -> Option<Vec<Arc<K>>> {
        self.is_listed.then(|| self.objects.state())
    }
}

//! The two interfaces by which an API server tells the endpoints of a Service.

/// An interface by which the dispatcher learns the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interface {
    /// One object with all endpoints (core/v1).
    Endpoints,
    /// EndpointSlices of 100 endpoints each.
    Slices,
}

impl Interface {
    /// The name of the interface's resource in paths.
    pub(super) fn resource(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::Slices => "endpointslices",
        }
    }
}

//! The manifests that several tests use, and the checks that end them: the same as in `tests/chaos`.

pub(crate) use windlass_tests::settings::*;

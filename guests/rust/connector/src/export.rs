//! What [`export!`](crate::export!) expands to. Not for use by hand.

use std::cell::RefCell;
use std::thread::LocalKey;

use self::meta::exports::windlass::connector::meta as contract;
use crate::{Batch, Descriptor, Error, Outcome, Rejection, Sink, Source, from_json};

// One world for each interface that can be exported: a component gets exactly those it names.
#[allow(
    missing_docs,
    missing_debug_implementations,
    reason = "generated from wit/, described there"
)]
pub mod meta {
    wit_bindgen::generate!({
        path: "../../../wit",
        inline: "package windlass:author; world has-meta { export windlass:connector/meta@0.1.0; }",
        world: "windlass:author/has-meta",
        pub_export_macro: true,
        default_bindings_module: "windlass_connector::export::meta",
    });
}

#[allow(
    missing_docs,
    missing_debug_implementations,
    reason = "generated from wit/, described there"
)]
pub mod source {
    wit_bindgen::generate!({
        path: "../../../wit",
        inline: "package windlass:author; world has-source { export windlass:connector/source@0.1.0; }",
        world: "windlass:author/has-source",
        with: { "windlass:connector/types@0.1.0": crate::imports::windlass::connector::types },
        pub_export_macro: true,
        default_bindings_module: "windlass_connector::export::source",
    });
}

#[allow(
    missing_docs,
    missing_debug_implementations,
    reason = "generated from wit/, described there"
)]
pub mod sink {
    wit_bindgen::generate!({
        path: "../../../wit",
        inline: "package windlass:author; world has-sink { export windlass:connector/sink@0.1.0; }",
        world: "windlass:author/has-sink",
        with: { "windlass:connector/types@0.1.0": crate::imports::windlass::connector::types },
        pub_export_macro: true,
        default_bindings_module: "windlass_connector::export::sink",
    });
}

/// Makes a component of a descriptor and a [`Source`], a [`Sink`](crate::Sink), or both, in this order.
#[macro_export]
macro_rules! export {
    (descriptor: $descriptor:expr $(, source: $source:ty)? $(, sink: $sink:ty)? $(,)?) => {
        const _: () = {
            use $crate::export as __windlass;

            struct Component;

            impl __windlass::meta::exports::windlass::connector::meta::Guest for Component {
                fn describe() -> __windlass::meta::exports::windlass::connector::meta::Descriptor {
                    const DESCRIPTOR: $crate::Descriptor = $descriptor;
                    __windlass::describe(&DESCRIPTOR)
                }
            }

            #[cfg(target_family = "wasm")]
            __windlass::meta::export!(Component with_types_in __windlass::meta);
            #[cfg(not(target_family = "wasm"))]
            #[used]
            static META_IS_USED: fn() -> __windlass::meta::exports::windlass::connector::meta::Descriptor =
                <Component as __windlass::meta::exports::windlass::connector::meta::Guest>::describe;

            $(
                ::std::thread_local! {
                    static SOURCE: __windlass::State<$source> = const { __windlass::State::new(None) };
                }

                impl __windlass::source::exports::windlass::connector::source::Guest for Component {
                    fn open(config: String, resume: Option<String>) -> Result<(), $crate::Error> {
                        __windlass::open_source(&SOURCE, &config, resume)
                    }
                    fn read() -> Result<$crate::Outcome, $crate::Error> {
                        __windlass::read(&SOURCE)
                    }
                    fn close() {
                        __windlass::close_source(&SOURCE);
                    }
                }

                #[cfg(target_family = "wasm")]
                __windlass::source::export!(Component with_types_in __windlass::source);
                #[cfg(not(target_family = "wasm"))]
                #[used]
                static SOURCE_IS_USED: fn() -> Result<$crate::Outcome, $crate::Error> =
                    <Component as __windlass::source::exports::windlass::connector::source::Guest>::read;
            )?

            $(
                ::std::thread_local! {
                    static SINK: __windlass::State<$sink> = const { __windlass::State::new(None) };
                }

                impl __windlass::sink::exports::windlass::connector::sink::Guest for Component {
                    fn open(config: String) -> Result<(), $crate::Error> {
                        __windlass::open_sink(&SINK, &config)
                    }
                    fn write(
                        batch: $crate::Batch,
                    ) -> Result<::std::vec::Vec<$crate::Rejection>, $crate::Error> {
                        __windlass::write(&SINK, batch)
                    }
                    fn close() {
                        __windlass::close_sink(&SINK);
                    }
                }

                #[cfg(target_family = "wasm")]
                __windlass::sink::export!(Component with_types_in __windlass::sink);
                #[cfg(not(target_family = "wasm"))]
                #[used]
                static SINK_IS_USED: fn($crate::Batch) -> Result<::std::vec::Vec<$crate::Rejection>, $crate::Error> =
                    <Component as __windlass::sink::exports::windlass::connector::sink::Guest>::write;
            )?
        };
    };
}

/// The one source or sink of an instance, once it is open.
pub type State<T> = RefCell<Option<T>>;

/// The descriptor as the contract has it.
#[must_use]
pub fn describe(descriptor: &Descriptor) -> contract::Descriptor {
    contract::Descriptor {
        name: descriptor.name.to_owned(),
        version: descriptor.version.to_owned(),
        description: descriptor.description.to_owned(),
        config_schema: descriptor.schema.document(),
        slots: descriptor
            .slots
            .iter()
            .map(|slot| contract::Slot {
                name: slot.name.to_owned(),
                interface: slot.interface.to_owned(),
                optional: slot.optional,
                description: slot.description.to_owned(),
            })
            .collect(),
    }
}

/// `source.open`.
///
/// # Errors
/// The source's own, or `misconfigured`.
pub fn open_source<T: Source>(
    state: &'static LocalKey<State<T>>,
    config: &str,
    resume: Option<String>,
) -> Result<(), Error> {
    let source = T::open(from_json(config)?, resume)?;
    state.replace(Some(source));
    Ok(())
}

/// `source.read`.
///
/// # Errors
/// The source's own.
pub fn read<T: Source>(state: &'static LocalKey<State<T>>) -> Result<Outcome, Error> {
    state.with_borrow_mut(|state| state.as_mut().ok_or_else(not_open)?.read())
}

/// `source.close`.
pub fn close_source<T: Source>(state: &'static LocalKey<State<T>>) {
    if let Some(source) = state.take() {
        source.close();
    }
}

/// `sink.open`.
///
/// # Errors
/// The sink's own, or `misconfigured`.
pub fn open_sink<T: Sink>(state: &'static LocalKey<State<T>>, config: &str) -> Result<(), Error> {
    let sink = T::open(from_json(config)?)?;
    state.replace(Some(sink));
    Ok(())
}

/// `sink.write`.
///
/// # Errors
/// The sink's own.
pub fn write<T: Sink>(
    state: &'static LocalKey<State<T>>,
    batch: Batch,
) -> Result<Vec<Rejection>, Error> {
    state.with_borrow_mut(|state| state.as_mut().ok_or_else(not_open)?.write(batch))
}

/// `sink.close`.
pub fn close_sink<T: Sink>(state: &'static LocalKey<State<T>>) {
    if let Some(sink) = state.take() {
        sink.close();
    }
}

fn not_open() -> Error {
    Error::transient("not-open", "called before a successful open")
}

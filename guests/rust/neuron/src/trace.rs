//! What Neuron puts before a message that it traces. Pure.

/// What Neuron puts before a message that it traces: these two bytes, and 24 more.
const TRACED: [u8; 2] = [0x0A, 0xCE];
const TRACE: usize = 26;

/// The message without its trace. None: it has none.
pub(crate) fn untraced(payload: &[u8]) -> Option<&[u8]> {
    let (trace, rest) = payload.split_at_checked(TRACE)?;
    (trace.starts_with(&TRACED) && !rest.is_empty()).then_some(rest)
}

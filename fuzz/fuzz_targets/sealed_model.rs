//! The sealed model: what is read is what would be written.
#![no_main]

use party_node::runtime::sealed_model::SealedModel;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(model) = SealedModel::read(&mut &bytes[..]) {
        assert_eq!(bytes.len(), 56 + 16 * model.parameters.len());
    }
});

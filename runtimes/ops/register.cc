// SPDX-License-Identifier: Apache-2.0
// The library's entry points.
#include "ops/op.h"

namespace ssmpress {
namespace {

// ONNX Runtime keeps pointers to the domain for as long as a session lives and never owns it, so
// there is one for the life of the process.
ort::CustomOpDomain* shared_domain = nullptr;

ort::Status* MakeDomain(const ort::Api* api, ort::CustomOpDomain** domain) {
  if (ort::Status* s = ort::kCreateCustomOpDomain(api)("ssmpress", domain)) return s;
  ort::Status* status = nullptr;
  const OpList lists[] = {SelectiveScanOps(), CausalConv1dOps(), SsdScanOps(),
                          GatedRmsNormOps(),  LinearOps(),       EmbeddingOps()};
  for (const OpList& list : lists) {
    for (size_t i = 0; status == nullptr && i < list.count; ++i) {
      status = ort::kCustomOpDomainAdd(api)(*domain, &list.ops[i].base);
    }
  }
  if (status != nullptr) ort::kReleaseCustomOpDomain(api)(*domain);
  return status;
}

// Two threads may register at the same time: the first domain to be published wins.
ort::Status* GetDomain(const ort::Api* api, ort::CustomOpDomain** domain) {
  *domain = __atomic_load_n(&shared_domain, __ATOMIC_ACQUIRE);
  if (*domain != nullptr) return nullptr;
  ort::CustomOpDomain* made = nullptr;
  if (ort::Status* s = MakeDomain(api, &made)) return s;
  if (__atomic_compare_exchange_n(&shared_domain, domain, made, false, __ATOMIC_ACQ_REL,
                                  __ATOMIC_ACQUIRE)) {
    *domain = made;
  } else {
    ort::kReleaseCustomOpDomain(api)(made);
  }
  return nullptr;
}

}  // namespace
}  // namespace ssmpress

#define SSMPRESS_EXPORT extern "C" __attribute__((visibility("default")))

// Called by SessionOptions.register_custom_ops_library.
SSMPRESS_EXPORT ssmpress::ort::Status* RegisterCustomOps(ssmpress::ort::SessionOptions* options,
                                                         const ssmpress::ort::ApiBase* base) {
  const ssmpress::ort::Api* api = base->get_api(ssmpress::ort::kApiVersion);
  // Without an API table there is no way to build an error: ONNX Runtime is older than 1.17 and has
  // already written that to its log. Adding nothing makes loading the model fail by op name.
  if (api == nullptr) return nullptr;
  ssmpress::ort::CustomOpDomain* domain = nullptr;
  if (ssmpress::ort::Status* s = ssmpress::GetDomain(api, &domain)) return s;
  return ssmpress::ort::kAddCustomOpDomain(api)(options, domain);
}

// The name of the instruction set in use, or the text of the error that SSMPRESS_ISA causes; that
// text lives until the next call.
SSMPRESS_EXPORT const char* ssmpress_isa(void) {
  static char error[256];
  const ssmpress::Isa* isa = ssmpress::SelectIsa(error, sizeof error);
  return isa != nullptr ? ssmpress::IsaName(*isa) : error;
}

// Records what a Verilated model does, where it was built to: FST, VCD, or SAIF, which only counts.
#ifndef FGMP_TRACE_H
#define FGMP_TRACE_H

#include <cstdint>
#include <memory>

#include "verilated.h"
#if VM_TRACE_FST
#include "verilated_fst_c.h"
using TraceFile = VerilatedFstC;
#elif VM_TRACE_SAIF
#include "verilated_saif_c.h"
using TraceFile = VerilatedSaifC;
#elif VM_TRACE
#include "verilated_vcd_c.h"
using TraceFile = VerilatedVcdC;
#endif

constexpr uint64_t kHalfPeriod = 5;  // ns

class Trace {
   public:
    // From now on into a file. Files are whole once the trace is gone.
    template <class Model>
    void open(Model* top, VerilatedContext& context, const char* path) {
#if VM_TRACE
        context.traceEverOn(true);
        file_ = std::make_unique<TraceFile>();
        top->trace(file_.get(), 99);
        file_->open(path);
#endif
    }

    // The model as it is now, half a clock period after it was dumped before.
    void dump() {
#if VM_TRACE
        if (file_) file_->dump(time_);
        time_ += kHalfPeriod;
#endif
    }

    void close() {
#if VM_TRACE
        if (!file_) return;
        file_->dump(time_);
        file_->close();
        file_.reset();
#endif
    }

#if VM_TRACE
   private:
    std::unique_ptr<TraceFile> file_;
    uint64_t time_ = 0;
#endif
};

#endif

// Records what a Verilated model does, where it was built to: FST, VCD, or SAIF, which only counts.
#ifndef FGMP_TRACE_H
#define FGMP_TRACE_H

#include <cstdint>
#include <filesystem>
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

// Verilator's writers end the program where a disk is full, or wait for ever. So recording ends before that: room is
// looked at once in kOften dumps, which are a few megabytes of a large engine's, and `reserve` bytes are to be left.
constexpr uint64_t kOften = 256;

class Trace {
   public:
    // From now on into a file. Files are whole once the trace is closed.
    template <class Model>
    void open(Model* top, VerilatedContext& context, const char* path, uint64_t reserve) {
#if VM_TRACE
        folder_ = std::filesystem::absolute(path).parent_path();
        reserve_ = reserve;
        full_ = !room();
        if (full_) return;
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
        if (file_ && time_ / kHalfPeriod % kOften == 0 && !room()) {
            full_ = true;
            close();
        }
#endif
    }

    // Returns whether everything is in the file.
    bool close() {
#if VM_TRACE
        if (file_) {
            file_->dump(time_);
            file_->close();
            file_.reset();
        }
        return !full_;
#else
        return true;
#endif
    }

#if VM_TRACE
   private:
    bool room() const {
        std::error_code unknown;  // then there is room
        return std::filesystem::space(folder_, unknown).available >= reserve_;
    }

    std::unique_ptr<TraceFile> file_;
    std::filesystem::path folder_;
    uint64_t reserve_ = 0;
    bool full_ = false;
    uint64_t time_ = 0;
#endif
};

#endif

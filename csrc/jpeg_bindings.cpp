// Python binding of the check of JPEG data. It does not depend on the processor, so there is one module.
#include <pybind11/pybind11.h>

#include "jpeg/damage.hpp"

namespace py = pybind11;

PYBIND11_MODULE(_jpeg, module, py::mod_gil_not_used()) {
  module.doc() = "Damage in the entropy-coded data of JPEG files.";
  module.def(
      "damage",
      [](const py::bytes& data) {
        char* begin = nullptr;
        py::ssize_t size = 0;
        if (PyBytes_AsStringAndSize(data.ptr(), &begin, &size) != 0) throw py::error_already_set();
        const py::gil_scoped_release unlocked;
        return medvlad::jpeg_damage(reinterpret_cast<const std::uint8_t*>(begin),
                                    static_cast<std::size_t>(size));
      },
      py::arg("data"), "Return what is wrong with the data of a JPEG file, or an empty text.");
}
